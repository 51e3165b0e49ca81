"""How runs were trained: loss, accuracy and learning rate, and feature shift where it was logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean
from typing import Any

import altair as alt

from restore_vlm.report.entries import Entry
from restore_vlm.report.tables import Cell, Sheet, number
from restore_vlm.report.vega import Chart, Look, Rows, Section, folded, named, tip
from restore_vlm.training import RunFolder

POINTS = 120
QUANTITIES = {"loss": "training loss", "accuracy": "accuracy on training batches, %", "lr": "learning rate"}
SHIFTS = {"shift_text": "text tower", "shift_image": "image tower", "discrepancy": "discrepancy"}
PLACE = ("step", "epoch")


def learning(found: Sequence[Entry], look: Look) -> Section | None:
    """Learning curves of all runs, mean over seeds; None where nothing was learned."""
    runs = {e.record.folder: e for e in found if e.record.folder}
    logged = {e: lines for folder, e in runs.items() if (lines := RunFolder(folder).read_metrics())}
    if not logged:
        return None
    section = Section("learning", "Learning curves", sheets=[_sheet(logged)])
    one = len({e.method for e in logged}) == 1
    rows = _averaged(logged, by_step=len(logged) == 1)
    section.rows["learning"] = rows
    section.charts = _one_method(rows, look) if one else _methods(rows, look)
    return section


def shift_while_training(found: Sequence[Entry], look: Look) -> tuple[Rows, list[Chart]]:
    """Feature shift by epoch on a fixed batch, of the runs that logged it."""
    runs = {e.record.folder: e for e in found if e.record.folder}
    logged = {e: lines for folder, e in runs.items() if (lines := RunFolder(folder).read_shift())}
    rows = _averaged(logged, by_step=False)
    if not rows:
        return [], []
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1))
    text = "On a fixed batch after each epoch; before the first, the prompts are as initialised."
    if len({e.method for e in logged}) == 1:
        chart = folded("training-shift", SHIFTS, x, "relative shift, mean over blocks", len(rows))
        return rows, [look.finish("Feature shift while training", text, chart)]
    charts = [
        look.finish(
            f"{title.capitalize()} while training", text, _lines_chart("training-shift", key, title, x, look)
        )
        for key, title in SHIFTS.items()
    ]
    return rows, charts


def _averaged(logged: dict[Entry, list[dict[str, Any]]], by_step: bool) -> Rows:
    """By step of one run, else by epoch; mean over nearby steps and over the seeds of a dataset."""
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for e, lines in logged.items():
        width = math.ceil(len(lines) / POINTS)
        for i, line in enumerate(lines):
            at = lines[min(i - i % width + width, len(lines)) - 1]["step"] if by_step else line["epoch"]
            groups.setdefault((e.method, e.record.source, at), []).append(line)
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


def _one_method(rows: Rows, look: Look) -> list[Chart]:
    place = "step" if "step" in rows[0] else "epoch"
    x = alt.X(f"{place}:Q", title=f"training {place}", axis=alt.Axis(tickMinStep=1))
    terms = [k for k in rows[-1] if k not in (*QUANTITIES, "series", "dataset", *PLACE)]
    shown = {"loss": "loss"} | {t: t.replace("_", " ") for t in terms if len(terms) > 1}
    near = "mean of nearby steps" if place == "step" else "mean of the runs"
    charts = [
        look.finish(
            "Loss", f"Training loss and its terms, {near}.", folded("learning", shown, x, "loss", len(rows))
        )
    ]
    for key in ("accuracy", "lr"):
        title = QUANTITIES[key]
        chart = folded("learning", {key: title}, x, title, len(rows))
        charts.append(look.finish(title.partition(",")[0].capitalize(), f"By {place}, {near}.", chart))
    return charts


def _methods(rows: Rows, look: Look) -> list[Chart]:
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1))
    datasets = sorted({row["dataset"] for row in rows})
    text = "By epoch, mean over seeds and the chosen datasets."
    return [
        look.finish(
            title.partition(",")[0].capitalize(),
            text,
            _lines_chart("learning", key, title, x, look, datasets),
        )
        for key, title in QUANTITIES.items()
    ]


def _lines_chart(name: str, key: str, title: str, x: alt.X, look: Look, datasets: Sequence[str] = ()) -> Any:
    base = (
        named(name)
        .transform_filter(look.chosen(scope=False, datasets=datasets))
        .transform_aggregate(value=f"mean({key})", groupby=["series", "epoch"])
        .encode(
            x=x,
            y=alt.Y("value:Q", title=title),
            tooltip=[tip("series:N"), tip("epoch:Q"), tip("value:Q", ".4~g", title)],
        )
    )
    return look.lines(base)


def _sheet(logged: dict[Entry, list[dict[str, Any]]]) -> Sheet:
    columns = ["method", "runs", "epochs", "steps", "loss, first epoch", "loss, last epoch",
               "training accuracy, last epoch, %"]  # fmt: skip
    rows = []
    for method in dict.fromkeys(e.method for e in logged):
        runs = [lines for e, lines in logged.items() if e.method == method]
        first = [_of_epoch(lines, lines[0]["epoch"]) for lines in runs]
        last = [_of_epoch(lines, lines[-1]["epoch"]) for lines in runs]
        counts = (len(runs), max(lines[-1]["epoch"] for lines in runs), max(len(lines) for lines in runs))
        losses = [number(mean(one["loss"] for one in some), 3) for some in (first, last)]
        accuracy = number(mean(one["accuracy"] for one in last))
        rows.append([Cell(method), *(Cell(str(count)) for count in counts), *losses, accuracy])
    return Sheet("Training, mean over runs", columns, rows)


def _of_epoch(lines: Sequence[dict[str, Any]], epoch: int) -> dict[str, float]:
    return _means([line for line in lines if line["epoch"] == epoch])
