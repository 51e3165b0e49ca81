"""What to type to have the same runs again, and what they ran on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from restore_vlm.figures.records import Record
from restore_vlm.report.labels import TRANSFER
from restore_vlm.training import RunFolder


def commands(path: Path, records: Iterable[Record]) -> list[str]:
    """The commands that made a run folder, or a grid's folder."""
    mine = list(records)
    return _bench(path, mine) if (path / "grids").is_dir() else _train(path, mine)


def machine(records: Sequence[Record]) -> dict[str, str]:
    """Versions and machine of the first run that has them.

    Raises:
        UserError: If the file of them is damaged.
    """
    for r in records:
        if r.folder and (folder := RunFolder(r.folder)).environment.exists():
            return _machine(folder.read_environment())
    return {}


def _machine(found: dict[str, Any]) -> dict[str, str]:
    packages = ", ".join(f"{name} {v}" for name, v in found["packages"].items())
    return {"machine": f"{found['platform']}, {found['device_name']}, Python {found['python']}",
            "packages": packages}  # fmt: skip


def _train(path: Path, records: Sequence[Record]) -> list[str]:
    run = RunFolder(path).read_config()["run"]
    method = run["method"] if isinstance(run["method"], str) else records[0].method
    words = ["restore-vlm", "train", run["data"], "--method", method, "--backbone", run["backbone"]]
    words += ["--shots", str(run.get("shots", "all")), "--seed", str(run["seed"])]
    words += ["--classes", run["classes"], "--recipe", run["recipe"], "--precision", run["precision"]]
    words += [*_settings(run["settings"]), "--out", str(path)]
    data = {r.part: r.result.get("data", run["data"]) for r in records}
    tests = [
        ["restore-vlm", "evaluate", str(path), "--data", d, "--classes", part] for part, d in data.items()
    ]
    return [shlex.join(line) for line in (words, *tests)]


def _bench(path: Path, records: Sequence[Record]) -> list[str]:
    grids: dict[tuple[str, tuple[str, ...], int | None], list[Record]] = {}
    for r in records:
        shots = None if r.protocol == "few-shot" else r.shots
        grids.setdefault((r.protocol, r.settings, shots), []).append(r)
    fewest_changes = sorted(grids, key=lambda grid: len(grid[1]))
    return [shlex.join(_grid(path, grids[grid])) for grid in fewest_changes]


def _grid(path: Path, records: Sequence[Record]) -> list[str]:
    def joined(name: str) -> str:
        return ",".join(dict.fromkeys(str(getattr(r, name)) for r in records))

    first = records[0]
    transfer = first.protocol in TRANSFER
    words = ["restore-vlm", "bench", first.protocol, "--root", "ROOT"]
    words += ["--source" if transfer else "--datasets", joined("source")]
    if transfer:
        words += ["--targets", ",".join(dict.fromkeys(r.dataset for r in records if r.dataset != r.source))]
    if first.shots is not None:
        words += ["--shots", joined("shots")]
    words += ["--methods", joined("method"), "--seeds", joined("seed"), "--backbone", first.backbone]
    return [*words, *_settings(first.settings), "--out", str(path)]


def _settings(settings: Iterable[str]) -> list[str]:
    return [word for s in settings for word in ("--set", s)]
