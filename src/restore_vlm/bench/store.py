"""What grids leave on disk: runs by content address, the grids they belong to, a lock."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from restore_vlm.bench.plan import ResultKey
from restore_vlm.bench.spec import address
from restore_vlm.errors import UserError
from restore_vlm.evaluation import Evaluation
from restore_vlm.measure.shift import Measurement
from restore_vlm.runtime.files import SHA256, read_json, sealed, write_atomic
from restore_vlm.runtime.locks import locked
from restore_vlm.training import RunFolder

AGAIN = "the same restore-vlm bench computes it again"


@dataclass
class TestResult(Evaluation):
    """What a test leaves: what it found, of which dataset, and the time it took."""

    dataset: str
    shift: Measurement
    training_seconds: float
    seconds: float


class StoredSpec(BaseModel):
    """What is read back of ``spec.json``."""

    label: str
    recipe: dict[str, Any]


class Failure(BaseModel):
    """What is read back of ``error.json``."""

    error: str


class Conditions(BaseModel):
    """What the results of one grid share."""

    backbone: str
    recipe: str
    settings: list[str]
    precision: str


class StoredGrid(BaseModel):
    """What is read back of a grid's file."""

    common: Conditions
    cells: list[ResultKey]


class JobFolder:
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
        """What a test found, or None while it has not been.

        Raises:
            UserError: If its file is damaged.
        """
        path = self.test(test)
        return read_json(path, TestResult, AGAIN) if path.exists() else None

    def done(self, test: str) -> dict[str, Any] | None:
        """What a test found, or None where it has to be computed, be it again."""
        with suppress(UserError):
            return self.result(test)
        return None

    def failure(self, test: str) -> str | None:
        """Why there is no result of a test, in one sentence; None if it was not tried."""
        try:
            self.result(test)
            return read_json(self.error, Failure, AGAIN)["error"] if self.error.exists() else None
        except UserError as error:
            return str(error).rstrip(".")

    def label(self) -> str:
        """What people call the run; empty where its file is absent or damaged."""
        with suppress(UserError):
            return read_json(self.spec, StoredSpec, AGAIN)["label"]
        return ""

    def recipe(self) -> dict[str, Any]:
        """What it was made with; empty where its file is absent or damaged."""
        with suppress(UserError):
            return read_json(self.spec, StoredSpec, AGAIN)["recipe"]
        return {}

    def results(self) -> list[dict[str, Any]]:
        """What all finished tests found."""
        found = [self.done(path.stem) for path in sorted((self.path / "tests").glob("*.json"))]
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
    """The folder of grids: one for each protocol and what its results share.

    Args:
        out: The folder; made when first written to.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.runs, self.grids_folder = self.out / "runs", self.out / "grids"

    def run(self, run: str) -> JobFolder:
        return JobFolder(self.runs / run)

    def lock(self) -> AbstractContextManager[None]:
        """Keeps a second grid out; a dead grid's lock is no lock."""
        return locked(self.out / ".lock")

    def result(self, key: ResultKey) -> dict[str, Any] | None:
        return self.run(key.run).result(key.test)

    def recipe(self, key: ResultKey) -> dict[str, Any]:
        """What its run was made with; empty where that is not known."""
        return self.run(key.run).recipe()

    def done(self, key: ResultKey) -> dict[str, Any] | None:
        return self.run(key.run).done(key.test)

    def failure(self, key: ResultKey) -> str | None:
        return self.run(key.run).failure(key.test)

    def remember(self, keys: Iterable[ResultKey], conditions: dict[str, Any]) -> None:
        """Notes which results a grid has, beside those it had; a place asked for again is replaced.

        Raises:
            UserError: If the folder cannot be written or the disk is full.
        """
        by_protocol: dict[str, list[ResultKey]] = {}
        for key in keys:
            by_protocol.setdefault(key.protocol, []).append(key)
        for protocol, mine in by_protocol.items():
            path = self.grids_folder / f"{protocol}-{address(conditions)[:8]}.json"
            old = _grid(path)[1] if path.exists() else []
            known = {key.place: key for key in (*old, *mine)}
            cells = [asdict(key) for key in known.values()]
            rows = ",\n".join(json.dumps(row) for row in cells)
            head, seal = json.dumps(conditions), sealed({"common": conditions, "cells": cells})[SHA256]
            write_atomic(path, f'{{"common": {head}, "cells": [\n{rows}\n], "{SHA256}": "{seal}"}}\n')

    def grids(self) -> list[tuple[dict[str, Any], list[ResultKey]]]:
        """The conditions of each grid, as :meth:`restore_vlm.bench.plan.Request.conditions`, and its results.

        Raises:
            UserError: If there is none, or the file of one is damaged.
        """
        paths = sorted(self.grids_folder.glob("*.json")) if self.grids_folder.is_dir() else []
        if not paths:
            raise UserError(f"There is no grid in {self.out}; give the --out of restore-vlm bench.")
        return [_grid(path) for path in paths]


def _grid(path: Path) -> tuple[dict[str, Any], list[ResultKey]]:
    advice = "remove it and give the restore-vlm bench commands of its protocol again: finished runs are kept"
    content = read_json(path, StoredGrid, advice)
    names = [f.name for f in fields(ResultKey)]
    return content["common"], [ResultKey(**{name: row[name] for name in names}) for row in content["cells"]]
