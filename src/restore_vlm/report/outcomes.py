"""Charts of test results: base against novel, accuracy by shots, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

import altair as alt

from restore_vlm.figures.records import Record
from restore_vlm.report.entries import Entry
from restore_vlm.report.tables import measure_sheet
from restore_vlm.report.vega import Chart, Look, Rows, Section, named, tip

BINS = 15


def trade_off(found: Sequence[Entry], look: Look) -> tuple[Rows, list[Chart]]:
    """Accuracy on base against novel classes, a point per method; nothing of one method."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for e in found:
        if e.scope in ("base classes", "novel classes"):
            halves = values.setdefault((e.series, e.record.dataset), {})
            halves.setdefault(e.record.part, []).append(e.record.accuracy)
    rows = [
        {"series": series, "dataset": dataset, "base": mean(h["base"]), "novel": mean(h["novel"])}
        for (series, dataset), h in values.items()
        if len(h) == 2
    ]
    if len({row["series"] for row in rows}) < 2:
        return [], []
    scale = alt.Scale(zero=False, nice=True, padding=12)
    chart = (
        named("trade-off")
        .transform_filter(look.chosen(scope=False))
        .transform_aggregate(base="mean(base)", novel="mean(novel)", groupby=["series"])
        .transform_calculate(hm="2 * datum.base * datum.novel / (datum.base + datum.novel)")
        .mark_point(filled=True, size=130, opacity=1)
        .encode(
            x=alt.X("base:Q", title="accuracy on base classes, %", scale=scale),
            y=alt.Y("novel:Q", title="accuracy on novel classes, %", scale=scale),
            color=look.colour,
            shape=look.shape,
            tooltip=[
                tip("series:N", title="method"), tip("base:Q", ".2f"), tip("novel:Q", ".2f"),
                tip("hm:Q", ".2f", "harmonic mean of the two"),
            ],
        )
    )  # fmt: skip
    text = "Mean over the chosen datasets and all seeds; up and to the right is better."
    return rows, [look.finish("Base against novel classes", text, chart)]


def by_shots(records: Sequence[Record], look: Look) -> tuple[Rows, list[Chart]]:
    """Accuracy by number of training images per class, of a few-shot grid."""
    values: dict[tuple[str, str, int], list[float]] = {}
    for r in records:
        if r.protocol == "few-shot" and r.shots is not None and r.method in look.names:
            values.setdefault((r.method, r.dataset, r.shots), []).append(r.accuracy)
    if len({shots for _, _, shots in values}) < 2:
        return [], []
    rows = [
        {"series": method, "dataset": dataset, "shots": shots, "accuracy": mean(v)}
        for (method, dataset, shots), v in values.items()
    ]
    base = (
        named("shots")
        .transform_filter(look.chosen(scope=False))
        .transform_aggregate(accuracy="mean(accuracy)", groupby=["series", "shots"])
        .encode(
            x=alt.X("shots:O", title="training images per class"),
            y=alt.Y("accuracy:Q", title="accuracy, %", scale=alt.Scale(zero=False)),
            tooltip=[tip("series:N", title="method"), tip("shots:O"), tip("accuracy:Q", ".2f")],
        )
    )
    text = "Mean over the chosen datasets and all seeds. The charts below are of the most shots."
    return rows, [look.finish("Accuracy by shots", text, look.lines(base))]


def calibration(found: Sequence[Entry], look: Look) -> Section:
    """Reliability diagram, distribution of P(c|x), and both in numbers."""
    sheet = measure_sheet(
        "Calibration",
        found,
        [
            ("accuracy, %", lambda r: r.accuracy, 1),
            ("expected calibration error, %", lambda r: 100 * r.result["calibration_error"], 1),
            ("mean P(c|x), %", lambda r: 100 * r.result["true_probability"], 1),
        ],
    )
    rows = {"reliability": _reliability_rows(found), "true-class": _true_class_rows(found)}
    charts = [_reliability(look), _true_class(look)]
    return Section("calibration", "Calibration", charts, [sheet], rows)


def _reliability_rows(found: Sequence[Entry]) -> Rows:
    """Images, their confidence and their hits, summed over seeds by bin."""
    sums: dict[tuple[str, str, str, int], list[float]] = {}
    for e in found:
        for b in e.record.result["reliability"]:
            place = (e.series, e.record.dataset, e.scope, math.ceil(b["confidence"] * BINS))
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


def _reliability(look: Look) -> Chart:
    unit = alt.Scale(domain=[0, 1])
    base = (
        named("reliability")
        .transform_filter(look.chosen())
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
    even = alt.Chart(ends).mark_line(strokeDash=[4, 4], color="var(--soft)", strokeWidth=1)
    text = (
        "Accuracy of images of about the same confidence; a calibrated model is on the dashed line, an "
        "overconfident one below it."
    )
    whole = alt.layer(even.encode(x="x:Q", y="y:Q"), look.lines(base))
    return look.finish("Reliability", text, whole)


def _true_class_rows(found: Sequence[Entry]) -> Rows:
    counts: dict[tuple[str, str, str], list[int]] = {}
    for e in found:
        own = e.record.result["true_histogram"]
        row = counts.setdefault((e.series, e.record.dataset, e.scope), [0] * len(own))
        for i, n in enumerate(own):
            row[i] += n
    return [
        {"series": series, "dataset": dataset, "scope": scope, "probability": (i + 0.5) / len(row), "n": n}
        for (series, dataset, scope), row in counts.items()
        for i, n in enumerate(row)
    ]


def _true_class(look: Look) -> Chart:
    base = (
        named("true-class")
        .transform_filter(look.chosen())
        .transform_aggregate(n="sum(n)", groupby=["series", "probability"])
        .transform_joinaggregate(images="sum(n)", groupby=["series"])
        .transform_calculate(share="100 * datum.n / datum.images")
        .encode(
            x=alt.X("probability:Q", title="P(c|x)", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("share:Q", title="test images, %"),
            tooltip=[
                tip("series:N"),
                tip("probability:Q", ".3f", "P(c|x), middle"),
                tip("share:Q", ".1f", "images, %"),
            ],
        )
    )
    line = base.mark_line(interpolate="step", strokeWidth=2).encode(color=look.colour, strokeDash=look.dash)
    felt = base.mark_point(filled=True, size=90, opacity=0).encode(color=look.colour)
    text = "Share of test images by the probability P(c|x) that the model gives their own class."
    return look.finish("Probability of the true class", text, line + felt)
