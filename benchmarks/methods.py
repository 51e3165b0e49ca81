"""Measure every method on the bundled CLIP and write the table of docs/methods.md.

    python benchmarks/methods.py [--seeds 1 2 3] [--methods coop restore ...] [--out FOLDER]

For each method: numbers kept, milliseconds per step (forward, backward and the gradient rule
on one batch of 8 images and the 20 base classes of the bundled photos; median of 20), and base
and novel accuracy after its recipe for the tiny backbone. Finished runs in --out are not repeated.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from restore_vlm import Classifier, fit
from restore_vlm.demo import PHOTOS
from restore_vlm.evaluation import harmonic_mean
from restore_vlm.method import Gradient, Losses, PromptedModel, load_recipe, methods
from restore_vlm.method.describe import learned
from restore_vlm.terminal import Bars, bars
from restore_vlm.training import Progress

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
BEGIN, END = "<!-- measured by benchmarks/methods.py -->", "<!-- end -->"
HEADINGS = "| method | what it learns | numbers kept | ms per step | base | novel | HM |"
BATCH = 8


def step_milliseconds(model: PromptedModel, repeats: int = 20) -> float | None:
    """The median time of a step on the classes the model holds; None where no gradient is needed."""
    if not model.config.trainable:
        return None
    gradient = Gradient(Losses(model.config, model), model)
    size = model.backbone.preprocess.size
    images = torch.randn(BATCH, 3, *((size, size) if isinstance(size, int) else size))
    labels, times = torch.arange(BATCH), []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        gradient.backward(model, images, labels)
        times.append(time.perf_counter() - start)
        model.zero_grad()
    return 1000 * median(times[2:])


def trained(method: str, seed: int, out: Path, display: Bars) -> Classifier:
    """A run on the base classes of the bundled photos."""
    name = f"{method} seed {seed}"
    progress = Progress(on_step=lambda done, total, m: display.move(name, done, total))
    folder = out / f"{method}-seed{seed}"
    return fit(
        PHOTOS,
        method,
        seed=seed,
        classes="base",
        out=folder,
        progress=progress,
        precision="fp32",
        validation=None,
    )


def row(method: str, seeds: list[int], out: Path, display: Bars) -> str:
    """One line of the Markdown table."""
    runs = [trained(method, seed, out, display) for seed in seeds]
    kept = sum(t.numel() for t in runs[0].model.adapter_state().values())
    milliseconds = step_milliseconds(runs[0].model)
    found = [[run.evaluate(PHOTOS, which).accuracy for which in ("base", "novel")] for run in runs]
    base, novel = (mean(f[i] for f in found) for i in (0, 1))
    cells: list[Any] = [
        f"`{method}`", learned(load_recipe(method)), f"{kept:,}",
        "-" if milliseconds is None else f"{milliseconds:.0f}",
        *(f"{100 * x:.1f}" for x in (base, novel, harmonic_mean(base, novel))),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--methods", nargs="+", default=methods())
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    args = parser.parse_args()
    with bars() as display:
        rows = []
        for i, method in enumerate(args.methods):
            display.move("methods", i, len(args.methods))
            rows.append(row(method, args.seeds, args.out, display))
    seeds = "seed " + ", ".join(map(str, args.seeds))
    table = "\n".join(
        [f"Accuracy in %, {seeds}.", "", HEADINGS, "|---" * HEADINGS.count(" | ") + "|---|", *rows]
    )
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
