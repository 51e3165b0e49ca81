"""What a grid leaves on disk: runs by content address, the tables they belong to, a lock."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from restore_vlm.bench.plan import Cell
from restore_vlm.bench.spec import address
from restore_vlm.errors import UserError
from restore_vlm.training import RunFolder, read_tensors, write_atomic

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no advisory locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds a lock that the system lets go of when its process dies, however it dies.

    Args:
        path: The lock's file.
        wait: Whether to wait for another holder or to give up.

    Raises:
        UserError: If another process holds it, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"Cannot write {path.parent}: {error.strerror}; choose another --out.") from None
    with file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another"
                raise UserError(
                    f"Process {holder} is writing to {path.parent}; wait for it or choose another --out."
                ) from None
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield


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
        """What a test found, or None while it has not been."""
        return _read(self.test(test))

    def failure(self) -> str | None:
        """Why the run failed last, in one sentence."""
        return (_read(self.error) or {}).get("error")

    def training_seconds(self) -> float:
        """Time spent training, over all interruptions."""
        checkpoint = RunFolder(self.model).checkpoint
        return read_tensors(checkpoint)[1]["seconds"] if checkpoint.is_file() else 0.0

    def forget_elsewhere(self, data: Path, device: str | None) -> None:
        """Removes an unfinished training of the same content at another place or on another device."""
        with suppress(OSError, tomllib.TOMLDecodeError, KeyError):
            run = tomllib.loads(RunFolder(self.model).config.read_text())["run"]
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

    def lock(self) -> Any:
        """Keeps a second grid out; a dead grid's lock is no lock."""
        return locked(self.out / ".lock")

    def result(self, cell: Cell) -> dict[str, Any] | None:
        return self.run(cell.run).result(cell.test)

    def failure(self, cell: Cell) -> str | None:
        return self.run(cell.run).failure()

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
            known = {cell.place: cell for cell in _cells(path)} | {cell.place: cell for cell in mine}
            rows = [asdict(cell) for cell in known.values()]
            text = ",\n".join(json.dumps(row) for row in rows)
            head = json.dumps({"common": common})[:-1]
            write_atomic(path, f'{head}, "cells": [\n{text}\n]}}\n')

    def tables(self) -> list[tuple[dict[str, Any], list[Cell]]]:
        """What each table's cells share, and the cells.

        Raises:
            UserError: If this is not a grid's folder.
        """
        paths = sorted(self.grids.glob("*.json")) if self.grids.is_dir() else []
        if not paths:
            raise UserError(f"There is no grid in {self.out}; give the --out of restore-vlm bench.")
        return [((_read(path) or {}).get("common", {}), _cells(path)) for path in paths]


def _cells(path: Path) -> list[Cell]:
    names = [f.name for f in fields(Cell)]
    rows = (_read(path) or {}).get("cells", [])
    return [Cell(**{name: row[name] for name in names}) for row in rows]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
