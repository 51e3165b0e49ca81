"""What a grid leaves on disk: runs by content address, the tables they belong to, a lock."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from restore_vlm.bench.plan import Cell
from restore_vlm.bench.spec import address
from restore_vlm.errors import UserError
from restore_vlm.evaluation import Evaluation
from restore_vlm.measure.shift import Measurement
from restore_vlm.runtime.files import SHA256, read_json, sealed, write_atomic
from restore_vlm.runtime.locks import locked
from restore_vlm.training import RunFolder

AGAIN = "the same restore-vlm bench computes it again"


@dataclass
class Tested(Evaluation):
    """What a test leaves: what it found, of which dataset, and the time it took."""

    dataset: str
    shift: Measurement
    training_seconds: float
    seconds: float


class Made(BaseModel):
    """What is read back of ``spec.json``."""

    label: str
    recipe: dict[str, Any]


class Failure(BaseModel):
    """What is read back of ``error.json``."""

    error: str


class Common(BaseModel):
    """What the cells of one table share."""

    backbone: str
    recipe: str
    settings: list[str]
    precision: str


class Grid(BaseModel):
    """What is read back of a table's file."""

    common: Common
    cells: list[Cell]


class RunPlace:
    """The folder of one run.

    Attributes:
        spec: ``spec.json``, what its address stands for.
        data: ``data/``, the list of its training images.
        model: ``model/``, the run folder of training.
        error: ``error.json``, why it failed, if it did.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec, self.error = path / "spec.json", path / "error.json"
        self.data, self.model = path / "data", path / "model"

    def test(self, test: str) -> Path:
        """``tests/ADDRESS.json``: there once the test is finished."""
        return self.path / "tests" / f"{test}.json"

    def result(self, test: str) -> dict[str, Any] | None:
        """What a test found, or None while it has not been or where its file is damaged."""
        with suppress(UserError):
            return read_json(self.test(test), Tested, AGAIN)
        return None

    def failure(self, test: str) -> str | None:
        """Why there is no result of a test, in one sentence; None if it was not tried."""
        if self.test(test).exists():
            return f"{self.test(test)} is damaged; {AGAIN}"
        with suppress(UserError):
            return read_json(self.error, Failure, AGAIN)["error"]
        return None

    def label(self) -> str:
        """What people call the run; empty where its file is absent or damaged."""
        with suppress(UserError):
            return read_json(self.spec, Made, AGAIN)["label"]
        return ""

    def recipe(self) -> dict[str, Any]:
        """What it was made with; empty where its file is absent or damaged."""
        with suppress(UserError):
            return read_json(self.spec, Made, AGAIN)["recipe"]
        return {}

    def results(self) -> list[dict[str, Any]]:
        """What all finished tests found."""
        found = [self.result(path.stem) for path in sorted((self.path / "tests").glob("*.json"))]
        return [result for result in found if result is not None]

    def training_seconds(self) -> float:
        """Time spent training, over all interruptions."""
        return RunFolder(self.model).training_seconds()

    def forget_elsewhere(self, data: Path, device: str | None) -> None:
        """Removes a training of the same content at another place or on another device, or a damaged one."""
        folder = RunFolder(self.model)
        if not folder.config.exists():
            return
        try:
            run = folder.read_config()["run"]
        except UserError:
            run = {"data": None}
        if (run["data"], run.get("device")) != (str(data), device):
            shutil.rmtree(self.model)


class Store:
    """A grid's folder.

    Args:
        out: The folder; made when first written to.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.runs, self.grids = self.out / "runs", self.out / "grids"

    def run(self, run: str) -> RunPlace:
        return RunPlace(self.runs / run)

    def lock(self) -> AbstractContextManager[None]:
        """Keeps a second grid out; a dead grid's lock is no lock."""
        return locked(self.out / ".lock")

    def result(self, cell: Cell) -> dict[str, Any] | None:
        return self.run(cell.run).result(cell.test)

    def recipe(self, cell: Cell) -> dict[str, Any]:
        """What its run was made with; empty where that is not known."""
        return self.run(cell.run).recipe()

    def failure(self, cell: Cell) -> str | None:
        return self.run(cell.run).failure(cell.test)

    def remember(self, cells: Iterable[Cell], common: dict[str, Any]) -> None:
        """Notes which cells a table has, beside those it had; a place asked for again is replaced.

        Raises:
            UserError: If the folder cannot be written or the disk is full.
        """
        by_protocol: dict[str, list[Cell]] = {}
        for cell in cells:
            by_protocol.setdefault(cell.protocol, []).append(cell)
        for protocol, mine in by_protocol.items():
            path = self.grids / f"{protocol}-{address(common)[:8]}.json"
            old = _grid(path)[1] if path.exists() else []
            known = {cell.place: cell for cell in (*old, *mine)}
            places = [asdict(cell) for cell in known.values()]
            rows = ",\n".join(json.dumps(row) for row in places)
            head, seal = json.dumps(common), sealed({"common": common, "cells": places})[SHA256]
            write_atomic(path, f'{{"common": {head}, "cells": [\n{rows}\n], "{SHA256}": "{seal}"}}\n')

    def tables(self) -> list[tuple[dict[str, Any], list[Cell]]]:
        """What each table's cells share, and the cells.

        Raises:
            UserError: If this is not a grid's folder, or one of its tables is damaged.
        """
        paths = sorted(self.grids.glob("*.json")) if self.grids.is_dir() else []
        if not paths:
            raise UserError(f"There is no grid in {self.out}; give the --out of restore-vlm bench.")
        return [_grid(path) for path in paths]


def _grid(path: Path) -> tuple[dict[str, Any], list[Cell]]:
    advice = "remove it and give the restore-vlm bench commands of its protocol again: finished runs are kept"
    content = read_json(path, Grid, advice)
    names = [f.name for f in fields(Cell)]
    return content["common"], [Cell(**{name: row[name] for name in names}) for row in content["cells"]]
