"""A run folder and a grid's folder, every file of them damaged, read by every command that reads it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from typer.testing import CliRunner

from faults.damage import WAYS, restore
from faults.outcomes import AGAIN, CUT, DIFFERENT, SAID, SAME, SENTENCE, TRACEBACK, Tally
from restore_vlm import cli
from restore_vlm.bench import DataRoot, Request, inline, make_plan, run_grid
from restore_vlm.errors import UserError
from restore_vlm.evaluation import protocols
from restore_vlm.runtime import tensors

SHORTENED = ("cut in half", "cut anywhere", "zeros at the end", "empty")
"""Ways that leave the beginning of a log, as a kill does."""
SHORT = ("training.epochs=2", "training.batch=2", "prompts.depth=1", "prompts.length=1")
SETTINGS = [word for setting in SHORT for word in ("--set", setting)]
ANEW = "bench, tests anew"
"""A grid that goes on without its results, so that it looks at everything else."""


@dataclass(frozen=True)
class Reader:
    """A command that reads a folder.

    Attributes:
        name: For the table.
        words: Its arguments; of a grid that goes on, its datasets and its folder.
        made: What it writes, which has to be the same.
    """

    name: str
    words: list[str]
    made: tuple[Path, ...] = ()


def invoke(words: Iterable[str]) -> tuple[str, str]:
    """The outcome of a command, and what it said."""
    result = CliRunner().invoke(cli.app, list(words))
    if isinstance(result.exception, UserError):
        return SENTENCE, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return TRACEBACK, f"{type(result.exception).__name__}: {result.exception}"
    return SAME, result.stdout if result.exit_code == 0 else f"exit code {result.exit_code}: {result.output}"


def train_words(photos: Path, out: Path) -> list[str]:
    """A run of a second."""
    fixed = [
        "--method",
        "ivlp",
        "--classes",
        "base",
        "--shots",
        "2",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    return ["train", str(photos), *fixed, "--log-shift", *SETTINGS, "--out", str(out)]


def run_folder(photos: Path, place: Path) -> None:
    """A finished run, tested on both halves, its shift logged and measured."""
    on = [str(place), "--data", str(photos), "--classes"]
    for words in (
        train_words(photos, place),
        ["evaluate", *on, "base"],
        ["evaluate", *on, "novel"],
        ["shift", *on, "base", "--images", "4"],
    ):
        outcome, said = invoke(words)
        assert outcome == SAME, said


def run_readers(photos: Path, run: Path, page: Path) -> list[Reader]:
    """The commands on a run folder."""
    photo = str(sorted(p for p in photos.rglob("*") if p.is_file())[0])
    on = [str(run), "--data", str(photos), "--classes", "base", "--json"]
    drawn = page.parent / "figures" / "true-class.csv"
    learned = (run / "adapter.safetensors", run / "metrics.jsonl", run / "shift.jsonl")
    return [
        Reader("evaluate", ["evaluate", *on], (run / "evaluation-base.json",)),
        Reader("predict", ["predict", str(run), photo, "--json"]),
        Reader("shift", ["shift", *on, "--images", "4"], (run / "shift-base.json",)),
        Reader("report", ["report", str(run), "--out", str(page)], (page,)),
        Reader(
            "figures", ["figures", str(run), "--out", str(drawn.parent), "--only", "true-class"], (drawn,)
        ),
        Reader("train", train_words(photos, run), learned),
    ]


def damage_run_folder(
    place: Path, photos: Path, tally: Tally, ways: Sequence[str] = tuple(WAYS), commands: Sequence[str] = ()
) -> None:
    """Every file of a run folder in every way through every command, or through some."""
    whole, run = place / "run-whole", place / "run"
    run_folder(photos, run)
    shutil.copytree(run, whole)
    found = [r for r in run_readers(photos, run, place / "report.html") if not commands or r.name in commands]
    files = [path.relative_to(whole) for path in sorted(whole.iterdir())]
    _damage(whole, run, files, found, ways, tally, "run folder")


def grid_folder(root: Path, out: Path) -> None:
    """A finished grid of two methods on one dataset, executed in this process."""
    asked = Request(("clip", "ivlp"), settings=SHORT, precision="fp32", device="cpu")
    trials = protocols.base_to_novel(["photos"], [1], 2)
    failed = run_grid(make_plan(trials, asked, DataRoot(root)), asked, out, inline)
    if failed:
        raise UserError("; ".join(failed.values()))


def damage_grid(place: Path, root: Path, tally: Tally, ways: Sequence[str] = tuple(WAYS)) -> None:
    """Every file of a grid's folder in every way through every command."""
    whole, out, page = place / "grid-whole", place / "grid", place / "report.html"
    grid_folder(root, out)
    shutil.copytree(out, whole)
    learned = tuple(sorted(out.glob("runs/*/model/adapter.safetensors")))
    drawn = place / "figures" / "true-class.csv"
    readers = [
        Reader("bench table", ["bench", "table", str(out), "--format", "markdown"]),
        Reader("bench table, CSV", ["bench", "table", str(out), "--format", "csv"]),
        Reader("bench compare", ["bench", "compare", str(out), "clip", "ivlp"]),
        Reader("report", ["report", str(out), "--out", str(page)], (page,)),
        Reader(
            "figures", ["figures", str(out), "--out", str(drawn.parent), "--only", "true-class"], (drawn,)
        ),
        Reader("bench", [str(root), str(out)]),
        Reader(ANEW, [str(root), str(out)], learned),
    ]
    files = [p.relative_to(whole) for p in sorted(whole.rglob("*")) if p.is_file() and p.name != ".lock"]
    files = [file for file in files if "data" not in file.parts]  # written anew before each use
    _damage(whole, out, files, readers, ways, tally, "grid's folder")


def _damage(
    whole: Path,
    copy: Path,
    files: list[Path],
    readers: list[Reader],
    ways: Sequence[str],
    tally: Tally,
    kind: str,
) -> None:
    for reader in readers:
        _prepare(reader, copy, whole)
        with _opened() as read:
            _said(reader)
        _prepare(reader, copy, whole)
        expected = _result(reader, copy)
        assert expected[0] == SAME, expected
        for file in files:
            for number, way in enumerate(ways):
                _prepare(reader, copy, whole)
                if not os.path.lexists(copy / file) or (number and copy / file not in read):
                    break  # once is enough to see that a file is not read
                WAYS[way](copy / file, Random(f"{file} {reader.name} {number}"))
                outcome, detail = _outcome(reader, copy, file, way, expected)
                tally.add(f"{kind}, {_kind(file)}", outcome, f"{file}, {way}, by {reader.name}: {detail}")


def _prepare(reader: Reader, copy: Path, whole: Path) -> None:
    restore(copy, whole)
    if reader.name == ANEW:
        for tests in copy.glob("runs/*/tests"):
            shutil.rmtree(tests)


def _kind(file: Path) -> str:
    """What a file is counted as."""
    if file.parts[0] in ("cache", "grids"):
        return f"`{file.parts[0]}/*{file.suffix}`"
    return "`tests/*.json`" if "tests" in file.parts else f"`{file.name}`"


def _result(reader: Reader, folder: Path) -> tuple[str, str, list[bytes]]:
    """Outcome, what is said, and what is made."""
    for path in reader.made:
        if not path.is_relative_to(folder):
            path.unlink(missing_ok=True)
    outcome, said = _said(reader)
    made = [path.read_bytes() for path in reader.made] if outcome == SAME else []
    return outcome, "" if (reader.name, outcome) == ("train", SAME) else said, made


def _said(reader: Reader) -> tuple[str, str]:
    if reader.name in ("bench", ANEW):
        return _resumed(*map(Path, reader.words))
    return invoke(reader.words)


def _resumed(root: Path, out: Path) -> tuple[str, str]:
    try:
        grid_folder(root, out)
    except UserError as error:
        return SENTENCE, str(error)
    except Exception as error:
        return TRACEBACK, f"{type(error).__name__}: {error}"
    return invoke(["bench", "table", str(out), "--format", "csv"])


def _outcome(
    reader: Reader, folder: Path, file: Path, way: str, expected: tuple[str, str, list[bytes]]
) -> tuple[str, str]:
    before = (folder / file).lstat().st_ino
    outcome, said, made = _result(reader, folder)
    if outcome == TRACEBACK:
        return TRACEBACK, said
    if outcome == SENTENCE:
        told = file.name in said and "\n" not in said and said.endswith(".")
        return (SENTENCE, said) if told else (TRACEBACK, f"no sentence about the file: {said}")
    if (outcome, said, made) == expected:
        again = not os.path.lexists(folder / file) or (folder / file).lstat().st_ino != before
        return (AGAIN if again else SAME), said
    if file.name in said or any(file.name.encode() in content for content in made):
        return SAID, said
    if reader.name == "report" and file.suffix == ".jsonl" and way in SHORTENED:
        return CUT, said
    return DIFFERENT, said


_recorders: list[set[Path]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _recorders and isinstance(arguments[0], str | Path):
        for recorder in _recorders:
            recorder.add(Path(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def _opened() -> Iterator[set[Path]]:
    """The files that are opened meanwhile, also by safetensors, which no hook sees."""
    found: set[Path] = set()
    real = tensors.safe_open
    _recorders.append(found)
    tensors.safe_open = lambda path, **options: found.add(Path(path)) or real(path, **options)
    try:
        yield found
    finally:
        tensors.safe_open = real
        _recorders.remove(found)
