"""Figures of feature shift: against gain, by tower, by block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import zip_longest
from math import isnan
from statistics import mean
from typing import Any

import numpy as np

from restore_vlm.errors import UserError
from restore_vlm.evaluation.statistics import Estimate, spearman
from restore_vlm.figures.drawing import COLOURS, HATCHES, Drawing, bars_text, canvas, look
from restore_vlm.figures.numbers import (
    HALVES,
    NO_SHIFT,
    ZERO,
    halves,
    methods_of,
    over_seeds,
    uneven,
    with_shift,
)
from restore_vlm.figures.records import Record
from restore_vlm.figures.runs import Run, runs_of, zero_shot

TOWERS = ("text", "image")
GAINING = "above zero-shot on base"
TOWER_METHODS = ("vpt", "lpt", "ivlp", "ivlp_fs", "restore")


def discrepancy(record: Record) -> float:
    """Inter-modal discrepancy of feature shift, summed over blocks."""
    assert record.shift is not None
    return record.shift["total_discrepancy"]


def tower_shift(record: Record, tower: str) -> float:
    """Relative shift of a tower, mean over blocks."""
    assert record.shift is not None
    return mean(block["relative"]["mean"] for block in record.shift[tower])


def moves(records: Sequence[Record]) -> dict[str, bool]:
    """Whether a method changes what any block of the towers gives; those that only add a head do not."""
    found = dict.fromkeys(methods_of(records), False)
    for r in records:
        found[r.method] |= any(tower_shift(r, tower) > 0 for tower in TOWERS)
    return found


def gain_points(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """One row per method, dataset, seed and half: discrepancy, and gain over zero-shot in points.

    Methods that move neither tower are left out: both of theirs would be zero on novel classes whatever
    they learned. Gains are rounded so that equal ones have the same rank.

    Raises:
        UserError: Without zero-shot, without a measured shift, or without anything else.
    """
    mine = [r for r in runs if not r.changed]
    measured = [(r, r.discrepancy) for r in mine if r.discrepancy is not None]
    if not measured:
        raise UserError(NO_SHIFT)
    zero, moving = zero_shot(mine), {r.method for r, value in measured if value > 0}
    found = [
        {"method": r.method, "dataset": r.dataset, "seed": r.seed, "half": r.part,
         "discrepancy": value, "gain": round(r.accuracy - zero[r.dataset, r.part, r.seed], 9)}
        for r, value in measured
        if r.method in moving and (r.dataset, r.part, r.seed) in zero
    ]  # fmt: skip
    if not found:
        raise UserError("Only zero-shot is among the runs, and it neither shifts nor gains; add a method.")
    return found


Points = Sequence[dict[str, Any]]


def gaining(points: Points) -> set[str]:
    """The methods that are above zero-shot on the classes they learned, on average."""
    base = _grouped([p for p in points if p["half"] == "base"], "method")
    return {method for method, mine in base.items() if mean(p["gain"] for p in mine) > 0}


def correlation(points: Points) -> Estimate:
    """Spearman's of discrepancy and gain; see :func:`restore_vlm.evaluation.statistics.spearman`."""
    x, y, methods, datasets = (
        [p[name] for p in points] for name in ("discrepancy", "gain", "method", "dataset")
    )
    return spearman(x, y, methods, datasets)


def correlations(points: Points) -> list[dict[str, Any]]:
    """Spearman's of discrepancy and gain of each half, of all points and of some.

    ``methods above zero-shot on base`` leaves out those that do not gain on base classes, as where a learned
    context has not yet caught up with a hand-written one; ``without METHOD`` is the one method whose
    absence brings the correlation nearest to zero.
    """
    learned = gaining(points)
    return [
        {
            "half": half,
            "points": what,
            "value": e.value,
            "low": e.low,
            "high": e.high,
            "over": e.over,
            "p": e.p,
        }
        for half in HALVES
        if (mine := [p for p in points if p["half"] == half])
        for what, e in _ways(mine, learned).items()
    ]


def _ways(points: Points, learned: set[str]) -> dict[str, Estimate]:
    methods = _grouped(points, "method")
    found = {"all points": correlation(points)}
    few = [p for p in points if p["method"] in learned]
    if few:
        found[f"methods {GAINING}"] = correlation(few)
    if len(methods) > 2:
        less = {m: correlation([p for p in points if p["method"] != m]) for m in methods}
        name = min(less, key=lambda m: abs(0 if isnan(less[m].value) else less[m].value))
        found[f"without {name}"] = less[name]
    return found


def _grouped(points: Points, key: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for p in points:
        found.setdefault(p[key], []).append(p)
    return found


def discrepancy_gain(records: Iterable[Record]) -> Drawing:
    """F3: discrepancy of feature shift against gain over zero-shot, on base and novel classes."""
    records = list(records)
    rows = gain_points(runs_of(records))
    still = [m for m, moving in moves(with_shift(halves(records))).items() if not moving and m != ZERO]
    left_out = f" Left out, as neither tower moves: {', '.join(still)}." if still else ""
    return discrepancy_gain_of(rows, left_out)


def discrepancy_gain_of(rows: Points, left_out: str = "") -> Drawing:
    """F3 of the points of :func:`gain_points`."""
    summary = correlations(rows)
    figure = canvas(10, 4.4)
    panels = figure.subplots(1, 2, sharex=True)
    for axes, half in zip(panels, HALVES, strict=True):
        for i, (method, points) in enumerate(_grouped(rows, "method").items()):
            places = [(p["discrepancy"], p["gain"]) for p in points if p["half"] == half]
            x, y = zip(*places, strict=True) if places else ((), ())
            axes.scatter(x, y, s=22, lw=0.9, label=method, **look(i))
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xscale("log")
        axes.set(xlabel="inter-modal discrepancy of feature shift", ylabel="gain over zero-shot, points")
        axes.set_title(f"{half} classes\n{_correlation_text(summary, half)}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    caption = (
        "One point per method, dataset and seed; Spearman's 95 % interval by redrawing methods and datasets; "
        "discrepancy-gain-summary.csv has others."
    )
    return Drawing(figure, list(rows), f"{caption}{left_out}", summary)


def _correlation_text(summary: Points, half: str) -> str:
    shown = {"all points": "all", f"methods {GAINING}": GAINING}
    texts = []
    for row in summary:
        if row["half"] == half and row["points"] in shown:
            text = Estimate(row["value"], row["low"], row["high"]).text
            texts.append(f"Spearman, {shown[row['points']]}: {text}")
    return "\n".join(texts)


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
    mine = [r for r in mine if r.method in methods]
    missing = [m for m in TOWER_METHODS if m not in methods]
    lacking = f" Not among the runs: {', '.join(missing)}." if missing else ""
    return Drawing(figure, rows, f"Average over datasets; {bars_text(seeds)}.{uneven(mine)}{lacking}")


def _bar(axes: Any, x: float, s: Any, i: int, label: str | None, form: str = "%.2f") -> None:
    bar = axes.bar(
        x, s.mean, 0.36, yerr=s.std, color=COLOURS[i], hatch=HATCHES[i], edgecolor="white", capsize=2,
        ecolor="#333333", label=label,
    )  # fmt: skip
    axes.bar_label(bar, fmt=form, fontsize=7, padding=2)


def shift_blocks(records: Iterable[Record]) -> Drawing:
    """Shift per block and tower of every method, as a heat map."""
    mine = [r for r in with_shift(halves(records)) if r.part == "base"]
    moving = moves(mine)
    methods = [m for m in moving if moving[m]]
    if not methods:
        raise UserError(
            "No method that moves a tower is tested on base classes, from which blocks are drawn."
        )
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
    still = ", ".join(m for m in moving if not moving[m])
    left_out = f" No block moves of {still}." if still else ""
    return Drawing(figure, rows, f"Mean over test images or classes, datasets and seeds.{left_out}")


def _blocks(records: Sequence[Record], tower: str) -> list[float]:
    per_run = [[b["relative"]["mean"] for b in r.shift[tower]] for r in records if r.shift]
    return [mean(values) for values in zip(*per_run, strict=True)]
