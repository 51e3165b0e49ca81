"""How runs were trained: loss, accuracy and learning rate, and feature shift where it was logged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import altair as alt

from restore_vlm.figures.figure import Figure, Rows, rows_chart
from restore_vlm.figures.style import COLOURS, SeriesStyle, tip
from restore_vlm.report.labels import LabelledRecord
from restore_vlm.report.section import Section, one_panel
from restore_vlm.report.tables import HtmlCell, HtmlTable, number
from restore_vlm.training import RunFolder

POINTS = 120
FEW = 40
"""Points of a line, beyond which they are felt by the pointer but not drawn."""
QUANTITIES = {"loss": "training loss", "accuracy": "accuracy on training batches, %", "lr": "learning rate"}
SHIFTS = {"shift_text": "text tower", "shift_image": "image tower", "discrepancy": "discrepancy"}
PLACE = ("step", "epoch")

Logs = list[tuple[LabelledRecord, list[dict[str, Any]]]]
"""Runs, each with the lines that it logged."""


def learning(found: Sequence[LabelledRecord], style: SeriesStyle) -> Section | None:
    """Learning curves of all runs, mean over seeds; None where nothing was learned."""
    logs = _logs(found, RunFolder.read_metrics)
    if not logs:
        return None
    rows = _averaged(logs, by_step=len(logs) == 1)
    one = len({r.label for r, _ in logs}) == 1
    figures = _one_method(rows) if one else _methods(rows, style)
    return Section("learning", "Learning curves", figures, [_table(logs)])


def shift_while_training(found: Sequence[LabelledRecord], style: SeriesStyle) -> list[Figure]:
    """Feature shift by epoch on a fixed batch, of the runs that logged it."""
    logs = _logs(found, RunFolder.read_shift)
    rows = _averaged(logs, by_step=False)
    if not rows:
        return []
    caption = "On a fixed batch after each epoch; before the first, the prompts are as initialised."
    if len({r.label for r, _ in logs}) == 1:
        x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1))
        chart = _folded(SHIFTS, x, "relative shift, mean over blocks", len(rows))
        return [one_panel("Feature shift while training", caption, chart, rows)]
    return [
        one_panel(f"{title.capitalize()} while training", caption, _by_epoch(key, title, style), rows)
        for key, title in SHIFTS.items()
    ]


def _logs(found: Sequence[LabelledRecord], read: Callable[[RunFolder], list[dict[str, Any]]]) -> Logs:
    """What one of the files of each run folder has, where there is any."""
    runs = {r.folder: r for r in found if r.folder}
    logs = [(r, read(RunFolder(folder))) for folder, r in runs.items()]
    return [(r, lines) for r, lines in logs if lines]


def _averaged(logs: Logs, by_step: bool) -> Rows:
    """By step of one run, else by epoch; mean over nearby steps and over the seeds of a dataset."""
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for r, lines in logs:
        width = math.ceil(len(lines) / POINTS)
        for i, line in enumerate(lines):
            at = lines[min(i - i % width + width, len(lines)) - 1]["step"] if by_step else line["epoch"]
            groups.setdefault((r.label, r.source, at), []).append(line)
    place = "step" if by_step else "epoch"
    return [
        {"series": method, "dataset": dataset, place: at, **_means(lines)}
        for (method, dataset, at), lines in groups.items()
    ]


def _means(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    keys = dict.fromkeys(k for line in lines for k, v in line.items() if isinstance(v, (int, float)))
    found = {k: [line[k] for line in lines if line.get(k) is not None] for k in keys if k not in PLACE}
    means = {k: mean(values) for k, values in found.items()}
    return {k: 100 * v if k == "accuracy" else v for k, v in means.items()}


def _one_method(rows: Rows) -> list[Figure]:
    place = "step" if "step" in rows[0] else "epoch"
    x = alt.X(f"{place}:Q", title=f"training {place}", axis=alt.Axis(tickMinStep=1))
    terms = [k for k in rows[-1] if k not in (*QUANTITIES, "series", "dataset", *PLACE)]
    shown = {"loss": "loss"} | {t: t.replace("_", " ") for t in terms if len(terms) > 1}
    near = "mean of nearby steps" if place == "step" else "mean of the runs"
    loss = _folded(shown, x, "loss", len(rows))
    figures = [one_panel("Loss", f"Training loss and its terms, {near}.", loss, rows)]
    for key in ("accuracy", "lr"):
        title = QUANTITIES[key]
        chart = _folded({key: title}, x, title, len(rows))
        figures.append(one_panel(_heading(title), f"By {place}, {near}.", chart, rows))
    return figures


def _methods(rows: Rows, style: SeriesStyle) -> list[Figure]:
    caption = "By epoch, mean over seeds and the chosen datasets."
    return [
        one_panel(_heading(title), caption, _by_epoch(key, title, style), rows)
        for key, title in QUANTITIES.items()
    ]


def _heading(title: str) -> str:
    return title.partition(",")[0].capitalize()


def _by_epoch(key: str, title: str, style: SeriesStyle) -> Any:
    """A line of each series."""
    return style.lines(
        rows_chart()
        .transform_aggregate(value=f"mean({key})", groupby=["series", "epoch"])
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title=title),
            tooltip=[tip("series:N"), tip("epoch:Q"), tip("value:Q", ".4~g", title)],
        )
    )


def _folded(fields: dict[str, str], x: alt.X, y: str, points: int) -> Any:
    """A line of each of several columns of the same rows, with a legend."""
    titles = list(fields.values())
    labelled = " : ".join(f"datum.key == '{key}' ? '{title}'" for key, title in fields.items()) + " : ''"
    scale = alt.Scale(domain=titles, range=[COLOURS[i % len(COLOURS)] for i in range(len(titles))])
    legend = alt.Legend(orient="top", direction="horizontal", columns=3, title=None)
    base = (
        rows_chart()
        .transform_fold(list(fields), as_=["key", "value"])
        .transform_calculate(what=labelled)
        .encode(
            x=x,
            y=alt.Y("value:Q", title=y),
            color=alt.Color("what:N", sort=titles, scale=scale, legend=legend),
            tooltip=[tip("what:N", title="line"), tip(str(x.shorthand)), tip("value:Q", ".4f")],
        )
    )
    few = points <= FEW
    point = base.mark_point(filled=True, size=34 if few else 90, opacity=1 if few else 0)
    return base.mark_line(strokeWidth=2) + point


def _table(logs: Logs) -> HtmlTable:
    columns = ["method", "runs", "epochs", "steps", "loss, first epoch", "loss, last epoch",
               "training accuracy, last epoch, %"]  # fmt: skip
    rows = []
    for label in dict.fromkeys(r.label for r, _ in logs):
        runs = [lines for r, lines in logs if r.label == label]
        first = [_of_epoch(lines, lines[0]["epoch"]) for lines in runs]
        last = [_of_epoch(lines, lines[-1]["epoch"]) for lines in runs]
        counts = (len(runs), max(lines[-1]["epoch"] for lines in runs), max(len(lines) for lines in runs))
        losses = [number(mean(one["loss"] for one in some), 3) for some in (first, last)]
        accuracy = number(mean(one["accuracy"] for one in last))
        rows.append([HtmlCell(label), *(HtmlCell(str(count)) for count in counts), *losses, accuracy])
    return HtmlTable("Training, mean over runs", columns, rows)


def _of_epoch(lines: Sequence[dict[str, Any]], epoch: int) -> dict[str, float]:
    return _means([line for line in lines if line["epoch"] == epoch])
