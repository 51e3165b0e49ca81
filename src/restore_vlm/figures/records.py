"""What finished runs say: one record for every run and test, from grids and from run folders alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restore_vlm.bench import Store
from restore_vlm.errors import UserError
from restore_vlm.evaluation import Evaluation
from restore_vlm.measure.shift import Measurement
from restore_vlm.runtime.files import is_file, is_folder, read_json
from restore_vlm.training import RunFolder


@dataclass
class Evaluated(Evaluation):
    """What ``restore-vlm evaluate`` leaves."""

    data: str


@dataclass(frozen=True)
class Measured(Measurement):
    """What ``restore-vlm shift`` leaves."""

    data: str


@dataclass(frozen=True)
class Record:
    """One finished run on one test.

    Attributes:
        protocol: Of its grid; ``runs`` for run folders of ``restore-vlm train``.
        method: Its name.
        settings: What was changed of the method, for the whole grid or run.
        source: Dataset trained on.
        dataset: Dataset tested on.
        part: Which of its classes: ``base``, ``novel``, ``all`` or the name of a file of classes.
        shots: Training images per class; None is all.
        seed: Of the run.
        backbone: Its name.
        result: The fields of :class:`restore_vlm.evaluation.Evaluation`, and where it was measured
            ``shift``, those of :class:`restore_vlm.measure.Measurement`.
        folder: The run folder; None where nothing is learned.
    """

    protocol: str
    method: str
    settings: tuple[str, ...]
    source: str
    dataset: str
    part: str
    shots: int | None
    seed: int
    backbone: str
    result: dict[str, Any]
    folder: Path | None

    @property
    def accuracy(self) -> float:
        """In %."""
        return 100 * self.result["accuracy"]

    @property
    def shift(self) -> dict[str, Any] | None:
        """The measured feature shift, if it was."""
        return self.result.get("shift")

    @property
    def shows_blocks(self) -> bool:
        """Whether that is by block in both towers; a tower that shows none has final features alone."""
        return bool(self.shift and self.shift["text"] and self.shift["image"])


def read_records(paths: Sequence[Path]) -> list[Record]:
    """The records of grids' folders (the ``--out`` of ``restore-vlm bench``) and run folders.

    A run folder has those parts that ``restore-vlm evaluate`` and ``restore-vlm shift`` were asked for.

    Raises:
        UserError: If a folder is neither, nothing in it is finished, or the runs are of different
            backbones.
    """
    return [record for own in read_each(paths) for record in own]


def read_each(paths: Sequence[Path]) -> list[list[Record]]:
    """The records of each folder; see :func:`read_records`."""
    found = [_of(path) for path in paths]
    backbones = list(dict.fromkeys(r.backbone for own in found for r in own))
    if len(backbones) > 1:
        raise UserError(
            f"The runs are of different backbones ({', '.join(backbones)}); compare those of one at a time."
        )
    return found


def _of(path: Path) -> list[Record]:
    if is_folder(path / "grids"):
        found = list(_grid(Store(path)))
    elif is_file(RunFolder(path).config):
        found = list(_run(RunFolder(path)))
    else:
        raise UserError(f"{path} is neither a run of restore-vlm train nor a grid of restore-vlm bench.")
    if not found:
        raise UserError(f"No test of {path} is finished; run restore-vlm evaluate {path} --data DATA first.")
    return found


def _grid(store: Store) -> Iterable[Record]:
    for common, cells in store.grids():
        for cell in cells:
            result = store.result(cell)
            if result is not None:
                model = store.run(cell.run).model
                yield Record(
                    cell.protocol, cell.method, tuple(common["settings"]), cell.source, cell.dataset,
                    cell.part, cell.shots, cell.seed, common["backbone"], result,
                    model if model.is_dir() else None,
                )  # fmt: skip


def _run(folder: RunFolder) -> Iterable[Record]:
    config = folder.read_config()
    for path in sorted(folder.path.glob("evaluation-*.json")):
        part = path.stem.removeprefix("evaluation-")
        result = read_json(path, Evaluated, "the same restore-vlm evaluate writes it again")
        shift = folder.path / f"shift-{part}.json"
        if shift.exists():
            result["shift"] = read_json(shift, Measured, "the same restore-vlm shift writes it again")
        yield _record(folder.path, config, part, result)


def _record(folder: Path, config: dict[str, Any], part: str, result: dict[str, Any]) -> Record:
    run = config["run"]
    return Record(
        "runs", config["method"]["name"], tuple(run["settings"]), _name(run["data"]), _name(result["data"]),
        part, run.get("shots"), run["seed"], run["backbone"], result, folder,
    )  # fmt: skip


def _name(data: str) -> str:
    return Path(data).resolve().stem
