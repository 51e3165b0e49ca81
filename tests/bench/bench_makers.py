"""Small grids on real photos."""

import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from restore_vlm.bench import DataRoot, Plan, Request, Results, Store, make_plan, render, run_grid, tables
from restore_vlm.bench.engines import Engine, inline
from restore_vlm.evaluation.evaluate import summarise
from restore_vlm.evaluation.protocol import Trial
from restore_vlm.evaluation.protocols import get_protocol

DEMO = Path(str(files("restore_vlm") / "assets" / "demo"))
SHORT = ("training.epochs=1", "training.batch=2", "prompts.depth=2")


def request(*methods: str, **options) -> Request:
    settings = options.pop("settings", SHORT if methods != ("clip",) else ())
    return Request(methods or ("clip", "maple"), settings=settings, precision="fp32", **options)


def trials(*datasets: str, seeds: Sequence[int] = (1,), shots: int | None = 2) -> list[Trial]:
    return get_protocol("base-to-novel").trials(datasets or ("split",), seeds, [shots])


def plan_of(root: Path, wanted: Sequence[Trial], asked: Request) -> Plan:
    return make_plan(wanted, asked, DataRoot(root))


def run(
    root: Path, out: Path, wanted: Sequence[Trial], asked: Request, engine: Engine = inline
) -> dict[str, str]:
    return run_grid(plan_of(root, wanted, asked), asked, out, engine)


def stored(accuracy: float, dataset: str = "a") -> dict[str, Any]:
    """What a grid stores of a test, with that accuracy of two images."""
    spread = {"mean": 0.1, "low": 0.1, "median": 0.1, "high": 0.1}
    shift = {"absolute": spread, "relative": spread, "cosine": spread}
    place = {"matching": 0.2, "gap": 1.0}
    found = summarise(torch.eye(2), torch.tensor([0, 1]), ["cat", "dog"]).as_json()
    measured = {
        "image": [shift], "text": [shift], "image_feature": shift, "text_feature": shift,
        "discrepancy": [0.0], "before": place, "after": place,
        "by_class": {"cat": 0.1, "dog": 0.1}, "total_discrepancy": 0.0,
    }  # fmt: skip
    rest = {"dataset": dataset, "shift": measured, "training_seconds": 1.0, "seconds": 1.0}
    return {**found, "accuracy": accuracy, **rest}


def csv_of(out: Path) -> str:
    """All tables of a grid's folder in full precision."""
    return "".join(
        render(tables(conditions, Results(keys, Store(out))), "csv")
        for conditions, keys in Store(out).grids()
    )


def make_root(root: Path) -> Path:
    """``split``: 4 classes with train and test; ``plain``: 4 other classes without; ``few``: 2 classes."""
    classes = sorted((DEMO / "train").iterdir())
    for folder in classes[:4]:
        for part in ("train", "test"):
            copy(DEMO / part / folder.name, root / "split" / part / folder.name)
    for folder in classes[4:8]:
        copy(folder, root / "plain" / folder.name)
    for folder in classes[8:10]:
        copy(folder, root / "few" / folder.name)
    return root


def copy(source: Path, target: Path, count: int = 4) -> None:
    target.mkdir(parents=True)
    for photo in sorted(source.iterdir())[:count]:
        shutil.copy(photo, target)
