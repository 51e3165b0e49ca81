"""Figures of test results: base against novel, accuracy by shots, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

import altair as alt

from restore_vlm.figures.accuracy import true_class_of
from restore_vlm.figures.figure import Figure, Numbers, Rows, rows_chart
from restore_vlm.figures.records import Record
from restore_vlm.figures.style import SOFT, SeriesStyle, tip
from restore_vlm.report.labels import LabelledRecord
from restore_vlm.report.section import Section, by_choice, one_panel
from restore_vlm.report.tables import measure_table

BINS = 15


def trade_off(found: Sequence[LabelledRecord], style: SeriesStyle) -> list[Figure]:
    """Accuracy on base against novel classes, a point per method; nothing of one method."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for r in found:
        if r.scope in ("base classes", "novel classes"):
            halves = values.setdefault((r.series, r.dataset), {})
            halves.setdefault(r.part, []).append(r.accuracy)
    rows = [
        {"series": series, "dataset": dataset, "base": mean(h["base"]), "novel": mean(h["novel"])}
        for (series, dataset), h in values.items()
        if len(h) == 2
    ]
    if len({row["series"] for row in rows}) < 2:
        return []
    scale = alt.Scale(zero=False, nice=True, padding=12)
    chart = (
        rows_chart()
        .transform_aggregate(base="mean(base)", novel="mean(novel)", groupby=["series"])
        .transform_calculate(hm="2 * datum.base * datum.novel / (datum.base + datum.novel)")
        .mark_point(filled=True, size=130, opacity=1)
        .encode(
            x=alt.X("base:Q", title="accuracy on base classes, %", scale=scale),
            y=alt.Y("novel:Q", title="accuracy on novel classes, %", scale=scale),
            color=style.colour,
            shape=style.shape,
            tooltip=[
                tip("series:N", title="method"), tip("base:Q", ".2f"), tip("novel:Q", ".2f"),
                tip("hm:Q", ".2f", "harmonic mean of the two"),
            ],
        )
    )  # fmt: skip
    text = "Mean over the chosen datasets and all seeds; up and to the right is better."
    return [one_panel("Base against novel classes", text, chart, rows)]


def by_shots(records: Sequence[Record], style: SeriesStyle) -> list[Figure]:
    """Accuracy by number of training images per class, of a few-shot grid."""
    values: dict[tuple[str, str, int], list[float]] = {}
    for r in records:
        if r.protocol == "few-shot" and r.shots is not None and r.method in style.names:
            values.setdefault((r.method, r.dataset, r.shots), []).append(r.accuracy)
    if len({shots for _, _, shots in values}) < 2:
        return []
    rows = [
        {"series": method, "dataset": dataset, "shots": shots, "accuracy": mean(v)}
        for (method, dataset, shots), v in values.items()
    ]
    base = (
        rows_chart()
        .transform_aggregate(accuracy="mean(accuracy)", groupby=["series", "shots"])
        .encode(
            x=alt.X("shots:O", title="training images per class"),
            y=alt.Y("accuracy:Q", title="accuracy, %", scale=alt.Scale(zero=False)),
            tooltip=[tip("series:N", title="method"), tip("shots:O"), tip("accuracy:Q", ".2f")],
        )
    )
    text = "Mean over the chosen datasets and all seeds. The charts below are of the most shots."
    return [one_panel("Accuracy by shots", text, style.lines(base), rows)]


def calibration(found: Sequence[LabelledRecord], style: SeriesStyle) -> Section:
    """Reliability diagram, distribution of P(c|x), and both in numbers."""
    numbers = measure_table(
        "Calibration",
        found,
        [
            ("accuracy, %", lambda r: r.accuracy, 1),
            ("expected calibration error, %", lambda r: 100 * r.result["calibration_error"], 1),
            ("mean P(c|x), %", lambda r: 100 * r.result["true_probability"], 1),
        ],
    )
    figures = [_reliability(found, style), by_choice("true-class", found, _true_class)]
    return Section("calibration", "Calibration", figures, [numbers])


def _true_class(records: Sequence[LabelledRecord]) -> Numbers:
    groups: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        groups.setdefault((r.label, (r.scope or r.series).removesuffix(" classes")), []).append(r)
    return true_class_of(groups)


def _reliability_rows(found: Sequence[LabelledRecord]) -> Rows:
    """Images, their confidence and their hits, summed over seeds by bin."""
    sums: dict[tuple[str, str, str, int], list[float]] = {}
    for r in found:
        for b in r.result["reliability"]:
            place = (r.series, r.dataset, r.scope, math.ceil(b["confidence"] * BINS))
            row = sums.setdefault(place, [0, 0, 0])
            for i, part in enumerate((1, b["confidence"], b["accuracy"])):
                row[i] += b["count"] * part
    return [
        {
            "series": series,
            "dataset": dataset,
            "scope": scope,
            "bin": place,
            "n": n,
            "sure": sure,
            "hits": hits,
        }
        for (series, dataset, scope, place), (n, sure, hits) in sums.items()
    ]


def _reliability(found: Sequence[LabelledRecord], style: SeriesStyle) -> Figure:
    unit = alt.Scale(domain=[0, 1])
    base = (
        rows_chart()
        .transform_aggregate(n="sum(n)", sure="sum(sure)", hits="sum(hits)", groupby=["series", "bin"])
        .transform_calculate(
            confidence="datum.sure / datum.n",
            accuracy="datum.hits / datum.n",
            gap="abs(datum.sure - datum.hits)",
        )
        .transform_joinaggregate(gaps="sum(gap)", images="sum(n)", groupby=["series"])
        .transform_calculate(ece="100 * datum.gaps / datum.images")
        .encode(
            x=alt.X("confidence:Q", title="confidence", scale=unit),
            y=alt.Y("accuracy:Q", title="accuracy", scale=unit),
            tooltip=[
                tip("series:N"), tip("confidence:Q", ".3f"), tip("accuracy:Q", ".3f"),
                tip("n:Q", title="images"), tip("ece:Q", ".1f", "ECE of all bins, %"),
            ],
        )
    )  # fmt: skip
    ends = alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    even = alt.Chart(ends).mark_line(strokeDash=[4, 4], color=SOFT, strokeWidth=1)
    text = (
        "Accuracy of images of about the same confidence; a calibrated model is on the dashed line, an "
        "overconfident one below it."
    )
    whole = alt.layer(even.encode(x="x:Q", y="y:Q"), style.lines(base))
    return one_panel("Reliability", text, whole, _reliability_rows(found))
