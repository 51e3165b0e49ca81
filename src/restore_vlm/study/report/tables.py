"""Tables of a report: what was run, results, classes."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from restore_vlm.bench import Board, Store, tables
from restore_vlm.bench.render import text as score_text
from restore_vlm.study.records import Record
from restore_vlm.training import RunFolder

CLASSES, NOTES = 200, 6


@dataclass(frozen=True)
class Cell:
    """Text, what to sort it by, and whether it is the best of its column."""

    text: str
    key: float | str
    best: bool = False


@dataclass
class Sheet:
    """A table people can sort and filter.

    Attributes:
        title: Caption.
        columns: Names.
        rows: Of as many cells.
        notes: Sentences below.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def word(text: Any) -> Cell:
    return Cell(str(text), str(text))


def number(value: float | None, digits: int = 1) -> Cell:
    return Cell("-", float("-inf")) if value is None else Cell(f"{value:.{digits}f}", value)


def grid_sheets(path: Path) -> list[Sheet]:
    """The tables of a grid, as ``restore-vlm bench table`` prints them."""
    store, found = Store(path), []
    for common, cells in sorted(store.tables(), key=lambda table: len(table[0]["settings"])):
        for table in reversed(tables(common, Board(cells, store))):
            rows = [
                [word(row.label)]
                + [
                    Cell(score_text(s), float("-inf") if s.mean is None else s.mean, i in table.best(c))
                    for c, s in enumerate(row.scores)
                ]
                for i, row in enumerate(table.rows)
            ]
            title = f"{table.title} ({', '.join(common['settings'])})" if common["settings"] else table.title
            found.append(Sheet(title, ["method", *table.columns], rows, _few(table.notes)))
    return found


def _few(notes: Sequence[str]) -> list[str]:
    more = [f"and {len(notes) - NOTES} more"] if len(notes) > NOTES else []
    return [*notes[:NOTES], *more]


def run_sheet(records: Sequence[Record]) -> Sheet:
    """Every test of run folders, with its interval."""
    columns = ["method", "dataset", "classes", "seed", "accuracy, %", "from", "to", "ECE, %", "images"]
    rows = [
        [
            word(" ".join([r.method, *r.settings])),
            word(r.dataset),
            word(r.part),
            number(r.seed, 0),
            number(r.accuracy),
        ]
        + [number(100 * end) for end in r.result["interval"]]
        + [number(100 * r.result["calibration_error"]), number(r.result["images"], 0)]
        for r in records
    ]
    notes = ["95 % Wilson intervals over test images."]
    if len({r.seed for r in records}) == 1:
        notes.append("One seed: nothing is said about the spread over seeds.")
    return Sheet("Results", columns, rows, notes)


def class_sheet(records: Sequence[Record]) -> Sheet:
    """Accuracy and shift of every class, mean over the tests it is in, most shifted first."""
    accuracy: dict[tuple[str, str], list[float]] = {}
    shift: dict[tuple[str, str], list[float]] = {}
    for r in records:
        for name, value in r.result["per_class"].items():
            if value is not None:
                accuracy.setdefault((r.method, name), []).append(100 * value)
        for name, value in (r.shift or {}).get("by_class", {}).items():
            shift.setdefault((r.method, name), []).append(value)
    rows = [
        [word(method), word(name), number(mean(values)), number(_mean(shift.get((method, name))), 3)]
        for (method, name), values in accuracy.items()
    ]
    rows.sort(key=lambda row: -float(row[3].key) if row[3].text != "-" else 0.0)
    notes = [] if len(rows) <= CLASSES else [f"The first {CLASSES} of {len(rows)}."]
    if not shift:
        notes.append("Feature shift was not measured: restore-vlm shift RUN --data DATA.")
    columns = ["method", "class", "accuracy, %", "shift of its text feature"]
    return Sheet("Classes, most shifted first", columns, rows[:CLASSES], notes)


def _mean(values: Sequence[float] | None) -> float | None:
    return mean(values) if values else None


def commands(path: Path, records: Iterable[Record]) -> list[str]:
    """What to type to have the same again."""
    mine = list(records)
    return _bench(path, mine) if (path / "grids").is_dir() else _train(path, mine)


def _train(path: Path, records: Sequence[Record]) -> list[str]:
    run = tomllib.loads(RunFolder(path).config.read_text())["run"]
    method = run["method"] if isinstance(run["method"], str) else records[0].method
    words = ["restore-vlm", "train", run["data"], "--method", method, "--backbone", run["backbone"]]
    words += [
        "--shots",
        str(run.get("shots", "all")),
        "--seed",
        str(run["seed"]),
        "--classes",
        run["classes"],
    ]
    words += ["--recipe", run["recipe"], "--precision", run["precision"]]
    words += [w for s in run["settings"] for w in ("--set", s)] + ["--out", str(path)]
    data = {r.part: r.result.get("data", run["data"]) for r in records}
    tests = [
        f"restore-vlm evaluate {path} --data {shlex.quote(d)} --classes {part}" for part, d in data.items()
    ]
    return [shlex.join(words), *tests]


def _bench(path: Path, records: Sequence[Record]) -> list[str]:
    found = []
    for protocol, settings in dict.fromkeys((r.protocol, r.settings) for r in records):
        mine = [r for r in records if (r.protocol, r.settings) == (protocol, settings)]

        def joined(name: str, mine: Sequence[Record] = mine) -> str:
            return ",".join(dict.fromkeys(str(getattr(r, name)) for r in mine))

        where = "--source" if protocol in ("cross-dataset", "domain-generalisation") else "--datasets"
        words = ["restore-vlm", "bench", protocol, "--root", "ROOT", where, joined("source")]
        if where == "--source":
            targets = dict.fromkeys(r.dataset for r in mine if r.dataset != r.source)
            words += ["--targets", ",".join(targets)]
        words += ["--methods", joined("method"), "--seeds", joined("seed"), "--backbone", mine[0].backbone]
        words += [w for s in settings for w in ("--set", s)] + ["--out", str(path)]
        found.append(shlex.join(words))
    return found


def machine(records: Sequence[Record]) -> dict[str, str]:
    """Versions and machine of the first run that has them."""
    for r in records:
        if r.folder and (path := RunFolder(r.folder).environment).is_file():
            found = json.loads(path.read_text())
            packages = ", ".join(f"{name} {v}" for name, v in found["packages"].items())
            return {"machine": f"{found['platform']}, {found['device_name']}, Python {found['python']}",
                    "packages": packages}  # fmt: skip
    return {}
