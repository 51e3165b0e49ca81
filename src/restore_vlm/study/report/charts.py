"""Interactive charts of a report, as Vega-Lite specifications made by Altair."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from restore_vlm.study.drawing import COLOURS
from restore_vlm.study.numbers import methods_of
from restore_vlm.study.records import Record
from restore_vlm.study.shift_figures import TOWERS, gain_points
from restore_vlm.training import RunFolder

PALETTE = [*COLOURS[:6], "#882255", "#999999"]
POINTS = 150
BINS = 15
LEGEND_COLUMNS, LEGEND_ROW = 4, 18
MANY = 12
"""Series, beyond which both halves of a method are one."""
NO_LOSS = ("step", "epoch", "lr", "accuracy")


@dataclass(frozen=True)
class Chart:
    """A chart and what it says to those who do not see it.

    Attributes:
        title: Heading.
        text: One or two sentences on what is shown.
        spec: Vega-Lite.
    """

    title: str
    text: str
    spec: dict[str, Any]


def _chart(title: str, text: str, chart: Any, series: int, height: int = 240) -> Chart:
    height += LEGEND_ROW * math.ceil(series / LEGEND_COLUMNS)
    whole = chart.properties(width="container", height=height, description=f"{title}. {text}").configure(
        background="transparent",
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        view=alt.ViewConfig(stroke=None),
        legend=alt.LegendConfig(orient="bottom", columns=LEGEND_COLUMNS, labelLimit=220),
    )
    return Chart(title, text, whole.to_dict())


def _highlighted(rows: Sequence[dict[str, Any]], field: str) -> tuple[Any, Any, Any]:
    """A base chart, its colour by ``field``, and an opacity by what is clicked in the legend."""
    chosen = alt.selection_point(fields=[field], bind="legend")
    colour = alt.Color(f"{field}:N", sort=None, scale=alt.Scale(range=PALETTE), title=None)
    opacity = alt.condition(chosen, alt.value(1.0), alt.value(0.08))
    return alt.Chart(alt.Data(values=list(rows))).add_params(chosen), colour, opacity


def _count(rows: Sequence[dict[str, Any]], field: str) -> int:
    return len({row[field] for row in rows})


def _series(records: Sequence[Record]) -> list[str]:
    """What each record is a part of in a chart of tests."""
    each = [f"{r.method}, {r.part}" for r in records]
    return each if len(set(each)) <= MANY else [r.method for r in records]


def _rounded(*fields: str, form: str = ".2f") -> list[Any]:
    return [alt.Tooltip(f"{name}:Q", format=form) for name in fields]


def learning_curves(records: Sequence[Record]) -> list[Chart]:
    """Loss, and feature shift where it was logged, of the first run of every method."""
    first: dict[str, Record] = {}
    for r in records:
        if r.folder and RunFolder(r.folder).metrics.is_file():
            first.setdefault(r.method, r)
    losses, shifts = [], []
    for name, r in first.items():
        assert r.folder is not None
        losses += _loss_rows(name, RunFolder(r.folder), terms=len(first) == 1)
        shifts += _shift_rows(name, RunFolder(r.folder))
    charts = []
    if losses:
        base, colour, opacity = _highlighted(losses, "series")
        line = base.mark_line().encode(
            x=alt.X("step:Q", title="training step"),
            y=alt.Y("value:Q", title="loss, mean of nearby steps"),
            color=colour,
            opacity=opacity,
            tooltip=["series:N", "step:Q", alt.Tooltip("value:Q", format=".3f")],
        )
        seeds = sorted({r.seed for r in first.values()})
        text = (
            f"Training loss of the first run of each method (seed {seeds[0]}); click the legend to pick one."
        )
        charts.append(_chart("Learning curves", text, line, _count(losses, "series")))
    if shifts:
        base, colour, opacity = _highlighted(shifts, "series")
        line = base.mark_line(point=True).encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title="relative shift, mean over blocks"),
            color=colour,
            opacity=opacity,
            tooltip=["series:N", "epoch:Q", alt.Tooltip("value:Q", format=".4f")],
        )
        charts.append(
            _chart(
                "Feature shift while training",
                "Of both towers and their discrepancy, on a fixed batch.",
                line,
                _count(shifts, "series"),
            )
        )
    return charts


def _lines(path: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _loss_rows(name: str, folder: RunFolder, terms: bool) -> list[dict[str, Any]]:
    lines = _lines(folder.metrics)
    shown = (
        [k for k in lines[0] if k not in ("step", "epoch", "lr", "accuracy")] if terms and lines else ["loss"]
    )
    width = max(1, math.ceil(len(lines) / POINTS))
    rows = []
    for start in range(0, len(lines), width):
        chunk = lines[start : start + width]
        for term in shown:
            value = sum(line[term] for line in chunk) / len(chunk)
            rows.append({"series": term if terms else name, "step": chunk[-1]["step"], "value": value})
    return rows


def _shift_rows(name: str, folder: RunFolder) -> list[dict[str, Any]]:
    kinds = {"shift_text": "text", "shift_image": "image", "discrepancy": "discrepancy"}
    return [
        {"series": f"{name}, {label}", "epoch": line["epoch"], "value": line[key]}
        for line in _lines(folder.shift)
        for key, label in kinds.items()
    ]


def reliability_chart(records: Sequence[Record]) -> Chart:
    """Accuracy against confidence, all tests of a method and half together."""
    sums: dict[tuple[str, int], list[float]] = {}
    for r, series in zip(records, _series(records), strict=True):
        for b in r.result["reliability"]:
            place = sums.setdefault((series, math.ceil(b["confidence"] * BINS)), [0, 0, 0])
            for i, value in enumerate((b["count"], b["count"] * b["confidence"], b["count"] * b["accuracy"])):
                place[i] += value
    rows = [
        {"series": series, "confidence": c / n, "accuracy": a / n, "images": n}
        for (series, _), (n, c, a) in sorted(sums.items(), key=lambda item: item[0][1])
    ]
    base, colour, opacity = _highlighted(rows, "series")
    line = base.mark_line(point=True).encode(
        x=alt.X("confidence:Q", title="confidence", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1])),
        color=colour,
        opacity=opacity,
        tooltip=[
            "series:N",
            *(alt.Tooltip(f"{k}:Q", format=".3f") for k in ("confidence", "accuracy")),
            "images:Q",
        ],
    )
    ends = alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    even = alt.Chart(ends).mark_line(strokeDash=[4, 4], color="#888888").encode(x="x:Q", y="y:Q")
    text = "Accuracy of images of about the same confidence; a calibrated model is on the dashed line."
    return _chart("Reliability", text, even + line, _count(rows, "series"))


def true_class_chart(records: Sequence[Record]) -> Chart:
    """Distribution of P(c|x) over test images."""
    counts: dict[str, list[int]] = {}
    for r, series in zip(records, _series(records), strict=True):
        mine = counts.setdefault(series, [0] * len(r.result["true_histogram"]))
        for i, n in enumerate(r.result["true_histogram"]):
            mine[i] += n
    rows = [
        {"series": series, "probability": (i + 0.5) / len(mine), "share": 100 * n / sum(mine)}
        for series, mine in counts.items()
        for i, n in enumerate(mine)
    ]
    base, colour, opacity = _highlighted(rows, "series")
    line = base.mark_line(interpolate="step").encode(
        x=alt.X(
            "probability:Q", title="probability of the true class, P(c|x)", scale=alt.Scale(domain=[0, 1])
        ),
        y=alt.Y("share:Q", title="test images, %"),
        color=colour,
        opacity=opacity,
        tooltip=["series:N", "probability:Q", alt.Tooltip("share:Q", format=".1f")],
    )
    return _chart(
        "Probability of the true class",
        "Share of test images by the probability of their own class.",
        line,
        _count(rows, "series"),
    )


def block_chart(records: Sequence[Record]) -> Chart | None:
    """Relative shift per block and tower."""
    sums: dict[tuple[str, str, int], list[float]] = {}
    for r in records:
        for tower in TOWERS if r.shift else ():
            for block, found in enumerate(r.shift[tower], start=1):  # type: ignore[index]
                sums.setdefault((r.method, tower, block), []).append(found["relative"]["mean"])
    if not sums:
        return None
    rows = [
        {"method": method, "tower": tower, "block": block, "shift": sum(values) / len(values)}
        for (method, tower, block), values in sums.items()
    ]
    base, colour, opacity = _highlighted(rows, "method")
    line = base.mark_line(point=True).encode(
        x=alt.X("block:Q", axis=alt.Axis(tickMinStep=1), title="block"),
        y=alt.Y("shift:Q", title="relative shift"),
        color=colour,
        opacity=opacity,
        strokeDash=alt.StrokeDash("tower:N", title=None),
        tooltip=["method:N", "tower:N", "block:Q", alt.Tooltip("shift:Q", format=".3f")],
    )
    text = (
        "How far embeddings are from the frozen model's: class token over images, end-of-text over classes."
    )
    return _chart("Feature shift by block", text, line, _count(rows, "method"))


def gain_chart(records: Sequence[Record]) -> Chart:
    """Discrepancy against gain over zero-shot, a point per method, dataset, seed and half."""
    rows = gain_points(records)
    base, colour, opacity = _highlighted(rows, "method")
    points = base.mark_point(filled=True, size=55).encode(
        x=alt.X(
            "discrepancy:Q",
            title="discrepancy of feature shift",
            scale=alt.Scale(type="symlog", constant=0.01),
        ),
        y=alt.Y("gain:Q", title="gain over zero-shot, points"),
        color=colour,
        opacity=opacity,
        shape=alt.Shape("half:N", title=None),
        tooltip=["method:N", "dataset:N", "half:N", "seed:Q", *_rounded("discrepancy", "gain")],
    )
    text = f"{len(rows)} points: {', '.join(methods_of(records))}. Circles and squares are the two halves."
    return _chart("Discrepancy against gain over zero-shot", text, points, _count(rows, "method"), 300)
