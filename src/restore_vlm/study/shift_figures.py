"""Figures of feature shift: against gain, by tower, by block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import zip_longest
from statistics import mean
from typing import Any

import numpy as np

from restore_vlm.errors import UserError
from restore_vlm.study.drawing import COLOURS, HATCHES, MARKERS, Drawing, bars_text, canvas
from restore_vlm.study.numbers import (
    HALVES,
    ZERO,
    clustered_spearman,
    halves,
    methods_of,
    over_seeds,
    pearson,
    with_shift,
    zero_shot,
)
from restore_vlm.study.records import Record

TOWERS = ("text", "image")
TOWER_METHODS = ("vpt", "lpt", "ivlp", "ivlp_fs", "restore")


def discrepancy(record: Record) -> float:
    """Inter-modal discrepancy of feature shift, summed over blocks."""
    assert record.shift is not None
    return record.shift["total_discrepancy"]


def tower_shift(record: Record, tower: str) -> float:
    """Relative shift of a tower, mean over blocks."""
    assert record.shift is not None
    return mean(block["relative"]["mean"] for block in record.shift[tower])


def gain_points(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row per method, dataset, seed and half: discrepancy, and gain over zero-shot in points."""
    mine = with_shift(halves(records))
    zero = zero_shot(mine)
    found = [
        {"method": r.method, "dataset": r.dataset, "seed": r.seed, "half": r.part,
         "discrepancy": discrepancy(r), "gain": r.accuracy - zero[r.dataset, r.part]}
        for r in mine
        if r.method != ZERO and (r.dataset, r.part) in zero
    ]  # fmt: skip
    if not found:
        raise UserError("Only zero-shot is among the runs, and it neither shifts nor gains; add a method.")
    return found


def discrepancy_gain(records: Iterable[Record]) -> Drawing:
    """F3: discrepancy of feature shift against gain over zero-shot, on base and novel classes."""
    rows = gain_points(records)
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure = canvas(10, 4.4)
    panels = figure.subplots(1, 2, sharex=True)
    captions = []
    for axes, half in zip(panels, HALVES, strict=True):
        mine = [r for r in rows if r["half"] == half]
        for i, method in enumerate(methods):
            points = [(r["discrepancy"], r["gain"]) for r in mine if r["method"] == method]
            if points:
                axes.scatter(*zip(*points, strict=True), s=22, marker=MARKERS[i % len(MARKERS)],
                             color=COLOURS[i % len(COLOURS)], alpha=0.85, lw=0, label=method)  # fmt: skip
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xscale("symlog", linthresh=0.01)
        axes.set(xlabel="inter-modal discrepancy of feature shift", ylabel="gain over zero-shot, points")
        x, y = [r["discrepancy"] for r in mine], [r["gain"] for r in mine]
        rank = clustered_spearman(x, y, [r["method"] for r in mine])
        axes.set_title(f"{half}: Spearman {rank.text}\nPearson {pearson(x, y).text}")
        captions.append(f"{half}: {len(mine)} points")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    caption = (
        "One point per method, dataset and seed; 95 % intervals: Spearman by redrawing methods, Pearson by "
        "Fisher's z as if all points were independent."
    )
    return Drawing(figure, rows, f"{caption} {'; '.join(captions)}.")


def shift_accuracy(records: Iterable[Record]) -> Drawing:
    """F4: shift of each tower, and accuracy on both halves, of the single-tower and two-tower prompts."""
    mine = with_shift(halves(records))
    methods = [m for m in TOWER_METHODS if any(r.method == m for r in mine)]
    if not methods:
        raise UserError(f"None of {', '.join(TOWER_METHODS)} is among the runs; add one.")
    figure = canvas(8.5, 3.4)
    left, right = figure.subplots(1, 2)
    rows, seeds = [], 1
    for place, method in enumerate(methods):
        own = [r for r in mine if r.method == method]
        row: dict[str, Any] = {"method": method}
        for i, tower in enumerate(TOWERS):
            s = over_seeds([r for r in own if r.part == "base"], partial(tower_shift, tower=tower))
            seeds = max(seeds, s.seeds)
            _bar(left, place + (i - 0.5) * 0.38, s, i, tower if not place else None)
            row |= {f"shift_{tower}": s.mean, f"shift_{tower}_std": s.std}
        for i, half in enumerate(HALVES):
            s = over_seeds([r for r in own if r.part == half], lambda r: r.accuracy)
            _bar(right, place + (i - 0.5) * 0.38, s, i, half if not place else None, "%.1f")
            row |= {f"accuracy_{half}": s.mean, f"accuracy_{half}_std": s.std}
        rows.append(row)
    for axes, label in ((left, "relative shift, mean over blocks"), (right, "accuracy, %")):
        axes.set_xticks(range(len(methods)), methods)
        axes.set_ylabel(label)
        axes.margins(y=0.18)
        axes.legend(ncols=2, loc="upper left")
    missing = [m for m in TOWER_METHODS if m not in methods]
    lacking = f" Not among the runs: {', '.join(missing)}." if missing else ""
    return Drawing(figure, rows, f"Average over datasets; {bars_text(seeds)}.{lacking}")


def _bar(axes: Any, x: float, s: Any, i: int, label: str | None, form: str = "%.2f") -> None:
    bar = axes.bar(
        x, s.mean, 0.36, yerr=s.std, color=COLOURS[i], hatch=HATCHES[i], edgecolor="white", capsize=2,
        ecolor="#333333", label=label,
    )  # fmt: skip
    axes.bar_label(bar, fmt=form, fontsize=7, padding=2)


def shift_blocks(records: Iterable[Record]) -> Drawing:
    """Shift per block and tower of every method, as a heat map."""
    mine = [r for r in with_shift(halves(records)) if r.part == "base" and r.method != ZERO]
    if not mine:
        raise UserError("No method is tested on base classes; shift by block is drawn from those tests.")
    methods = methods_of(mine)
    found = {t: [_blocks([r for r in mine if r.method == m], t) for m in methods] for t in TOWERS}
    figure = canvas(10, 1.2 + 0.27 * len(methods))
    panels = figure.subplots(1, 2, sharey=True)
    top = max(v for rows in found.values() for row in rows for v in row)
    for axes, tower in zip(panels, TOWERS, strict=True):
        grid = np.array(list(zip_longest(*found[tower], fillvalue=np.nan))).T
        image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=top, aspect="auto")
        for (i, j), value in np.ndenumerate(grid):
            colour = "white" if value < 0.55 * top else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=6.5)
        axes.set_xticks(range(grid.shape[1]), range(1, grid.shape[1] + 1))
        axes.set_yticks(range(len(methods)), methods)
        axes.set(xlabel="block", title=f"{tower} tower")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    figure.colorbar(image, ax=panels, label="relative shift", shrink=0.9)
    rows = [
        {"method": m, "tower": t, "block": b, "shift": value}
        for t in TOWERS
        for m, values in zip(methods, found[t], strict=True)
        for b, value in enumerate(values, start=1)
    ]
    return Drawing(figure, rows, "Mean over test images or classes, datasets and seeds.")


def _blocks(records: Sequence[Record], tower: str) -> list[float]:
    per_run = [[b["relative"]["mean"] for b in r.shift[tower]] for r in records if r.shift]
    return [mean(values) for values in zip(*per_run, strict=True)]
