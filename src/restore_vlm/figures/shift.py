"""Figures of feature shift: against gain, by tower, by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import isnan
from statistics import mean
from typing import Any

import altair as alt

from restore_vlm.errors import UserError
from restore_vlm.evaluation.statistics import Estimate, spearman
from restore_vlm.figures.accuracy import bars_text, ends
from restore_vlm.figures.figure import Numbers, Panel, Rows, rows_chart
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
from restore_vlm.figures.style import PART_COLOURS, SOFT, TOWER_COLOURS, SeriesStyle, grouped_bars, tip

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


def discrepancy_gain(records: Iterable[Record]) -> Numbers:
    """Discrepancy of feature shift against gain over zero-shot, on base and novel classes."""
    records = list(records)
    still = [m for m, moving in moves(with_shift(halves(records))).items() if not moving and m != ZERO]
    points = gain_points(runs_of(records))
    left_out = f" Left out, as neither tower moves: {', '.join(still)}." if still else ""
    return discrepancy_gain_of(points, left_out)


def discrepancy_gain_of(points: Points, left_out: str = "") -> Numbers:
    """The same of the points of :func:`gain_points`."""
    caption = (
        "One point per method, dataset and seed; Spearman's 95 % interval by redrawing methods and datasets; "
        "discrepancy-gain-summary.csv has others."
    )
    return Numbers(list(points), f"{caption}{left_out}", correlations(points))


def discrepancy_gain_panels(rows: Rows, summary: Rows, style: SeriesStyle | None = None) -> list[Panel]:
    """A scatter of each half, with the correlations that the summary has of it."""
    style = style or SeriesStyle(row["method"] for row in rows)
    x = [row["discrepancy"] for row in rows if row["discrepancy"] > 0]
    span = alt.Scale(type="log", domain=[min(x) / 1.3, max(x) * 1.3], nice=False)
    decades = alt.Axis(format="~g", values=[10.0**i for i in range(-9, 7)])
    points = (
        rows_chart()
        .transform_filter("datum.discrepancy > 0")
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=alt.X("discrepancy:Q", title="inter-modal discrepancy of feature shift, sum over blocks",
                    scale=span, axis=decades),
            y=alt.Y("gain:Q", title="gain over zero-shot, points", scale=alt.Scale(nice=False, padding=12)),
            color=style.colour,
            shape=style.shape,
            tooltip=[tip("method:N"), tip("dataset:N"), tip("seed:Q"), tip("discrepancy:Q", ".3~g"),
                     tip("gain:Q", "+.2f")],
        )
    )  # fmt: skip
    zero = (
        alt.Chart(alt.Data(values=[{"gain": 0}])).mark_rule(color=SOFT, strokeDash=[4, 4]).encode(y="gain:Q")
    )
    return [
        Panel(f"Discrepancy against gain, {half} classes", zero + points,
              [row for row in rows if row["half"] == half], _correlation_text(summary, half), 380, 330)
        for half in HALVES
        if any(r["half"] == half for r in rows)
    ]  # fmt: skip


def _correlation_text(summary: Points, half: str) -> tuple[str, ...]:
    shown = {"all points": "all points", f"methods {GAINING}": f"methods {GAINING}"}
    return tuple(
        f"Spearman, {shown[row['points']]}: {Estimate(row['value'], row['low'], row['high']).text}"
        for row in summary
        if row["half"] == half and row["points"] in shown
    )


def shift_accuracy(records: Iterable[Record]) -> Numbers:
    """Shift of each tower, and accuracy on both halves, of the single-tower and two-tower prompts."""
    mine = with_shift(halves(records))
    methods = [m for m in TOWER_METHODS if any(r.method == m for r in mine)]
    if not methods:
        raise UserError(f"None of {', '.join(TOWER_METHODS)} is among the runs; add one.")
    rows, seeds = [], 1
    for method in methods:
        own = [r for r in mine if r.method == method]
        row: dict[str, Any] = {"method": method}
        for tower in TOWERS:
            s = over_seeds([r for r in own if r.part == "base"], partial(tower_shift, tower=tower))
            seeds = max(seeds, s.seeds)
            row |= {f"shift_{tower}": s.mean, f"shift_{tower}_std": s.std}
        for half in HALVES:
            s = over_seeds([r for r in own if r.part == half], lambda r: r.accuracy)
            row |= {f"accuracy_{half}": s.mean, f"accuracy_{half}_std": s.std}
        rows.append(row)
    mine = [r for r in mine if r.method in methods]
    missing = [m for m in TOWER_METHODS if m not in methods]
    lacking = f" Not among the runs: {', '.join(missing)}." if missing else ""
    return Numbers(rows, f"Average over datasets; {bars_text(seeds)}.{uneven(mine)}{lacking}")


def shift_accuracy_panels(rows: Rows, summary: Rows) -> list[Panel]:
    """Bars of the towers' shift beside bars of accuracy."""
    halves_colours = {half: PART_COLOURS[half] for half in HALVES}
    return [
        _bars("Shift of each tower", rows, "shift", "tower", TOWER_COLOURS,
              "relative shift, mean over blocks", ".2f"),
        _bars("Accuracy", rows, "accuracy", "half", halves_colours, "accuracy, %", ".1f"),
    ]  # fmt: skip


def _bars(
    title: str, rows: Rows, value: str, group: str, colours: dict[str, str], y: str, form: str
) -> Panel:
    drawn = [
        {k: v for k, v in row.items() if not k.startswith(("shift_", "accuracy_"))}
        | {group: name, "value": row[f"{value}_{name}"]}
        | ends(row[f"{value}_{name}"], row[f"{value}_{name}_std"])
        for row in rows
        for name in colours
    ]
    return Panel(
        title, grouped_bars(rows_chart(), drawn, "method", group, colours, y, form), drawn, width=380
    )


def shift_blocks(records: Iterable[Record]) -> Numbers:
    """Shift per block and tower of every method on base classes."""
    mine = [r for r in with_shift(halves(records)) if r.part == "base"]
    moving = moves(mine)
    if not any(moving.values()):
        raise UserError(
            "No method that moves a tower is tested on base classes, from which blocks are drawn."
        )
    still = ", ".join(m for m in moving if not moving[m])
    numbers = shift_blocks_of({m: [r for r in mine if r.method == m] for m in moving if moving[m]})
    return Numbers(numbers.rows, numbers.caption + (f" No block moves of {still}." if still else ""))


def shift_blocks_of(groups: Mapping[str, Sequence[Record]]) -> Numbers:
    """The same of any groups of records whose shift was measured."""
    rows = [
        {"method": name, "tower": tower, "block": block, "shift": value}
        for tower in TOWERS
        for name, own in groups.items()
        for block, value in enumerate(_blocks(own, tower), start=1)
    ]
    return Numbers(rows, "Mean over test images or classes, datasets and seeds.")


def shift_blocks_panels(rows: Rows, summary: Rows) -> list[Panel]:
    """A heat map of each tower on the same scale."""
    order = list(dict.fromkeys(row["method"] for row in rows))
    top = max(row["shift"] for row in rows)
    base = rows_chart().encode(
        x=alt.X("block:O", title="block", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("method:N", title=None, sort=order),
    )
    colour = alt.Color(
        "shift:Q", title="relative shift", scale=alt.Scale(scheme="cividis", domain=[0, top or 1]),
        legend=alt.Legend(orient="bottom", direction="horizontal", gradientLength=200),
    )  # fmt: skip
    tips = [tip("method:N"), tip("block:O"), tip("shift:Q", ".4~g")]
    text = base.mark_text(fontSize=9).encode(
        text=alt.Text("shift:Q", format=".2f"),
        color=alt.condition(f"datum.shift < {0.55 * top}", alt.value("white"), alt.value("black")),
        tooltip=tips,
    )
    heat = base.mark_rect().encode(color=colour, tooltip=tips)
    return [
        Panel(f"Shift by block, {tower} tower", heat + text, [r for r in rows if r["tower"] == tower],
              width=alt.Step(40), height=alt.Step(20))
        for tower in dict.fromkeys(row["tower"] for row in rows)
    ]  # fmt: skip


def _blocks(records: Sequence[Record], tower: str) -> list[float]:
    per_run = [[b["relative"]["mean"] for b in r.shift[tower]] for r in records if r.shift]
    return [mean(values) for values in zip(*per_run, strict=True)]
