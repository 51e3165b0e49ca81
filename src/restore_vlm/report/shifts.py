"""Charts of feature shift: by block, while training, against gain over zero-shot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from statistics import mean
from typing import Any

import altair as alt

from restore_vlm.errors import UserError
from restore_vlm.figures.numbers import HALVES
from restore_vlm.figures.records import Record
from restore_vlm.figures.runs import runs_of
from restore_vlm.figures.shift import correlation, gain_points, tower_shift
from restore_vlm.report.entries import Entry
from restore_vlm.report.learning import shift_while_training
from restore_vlm.report.tables import measure_sheet
from restore_vlm.report.vega import Chart, Look, Rows, Section, named, tip

BLOCKS = {
    "text": ("Shift by block, text tower", "relative shift", "At the end-of-text token, mean over classes."),
    "image": ("Shift by block, image tower", "relative shift", "At the class token, mean over images."),
    "discrepancy": ("Discrepancy by block", "discrepancy", "(text - image shift)², what L_fs keeps small."),
}


def shifts(found: Sequence[Entry], records: Sequence[Record], look: Look) -> Section:
    """Everything about feature shift that was measured."""
    section = Section("shift", "Feature shift")
    section.rows["training-shift"], section.charts = shift_while_training(found, look)
    measured = [e for e in found if e.record.shift and _moves(e.record)]
    if not measured:
        section.notes.append(
            "Not measured by block. For runs: restore-vlm shift RUN --data DATA with the --classes of their "
            "tests; grids measure it themselves."
            if not any(e.record.shift for e in found)
            else "Nothing moved: the embeddings are those of the frozen model."
        )
        return section
    section.notes.append(
        "Relative feature shift is ||tuned - frozen|| / ||frozen|| of the embeddings, 0 where nothing moved."
    )
    rows = section.rows["blocks"] = _block_rows(measured)
    section.charts += [_blocks(key, look) for key in BLOCKS if any(key in row for row in rows)]
    if not all(e.record.shows_blocks for e in measured):
        section.notes.append("A tower that shows no blocks is measured at its final features alone.")
    with suppress(UserError):
        section.rows["gain"], chart = _gain(records, look)
        section.charts.append(chart)
    section.sheets = [_sheet(measured)]
    return section


def _moves(record: Record) -> bool:
    assert record.shift is not None
    features = (record.shift[f"{tower}_feature"]["relative"]["mean"] for tower in ("text", "image"))
    return any(value > 1e-6 for value in (*features, _over_blocks(record, "text") or 0))


def _over_blocks(record: Record, tower: str) -> float | None:
    """Mean relative shift of the blocks of a tower that shows them."""
    return tower_shift(record, tower) if record.shift and record.shift[tower] else None


def _block_rows(found: Sequence[Entry]) -> Rows:
    """Mean over seeds of both towers' relative shift and their discrepancy."""
    sums: dict[tuple[str, str, str, int], dict[str, list[float]]] = {}
    for e in found:
        shift: dict[str, Any] = e.record.shift or {}
        towers = [[b["relative"]["mean"] for b in shift[tower]] for tower in ("text", "image")]
        for block, values in enumerate(zip_longest(*towers, shift["discrepancy"]), start=1):
            row = sums.setdefault((e.series, e.record.dataset, e.scope, block), {})
            for key, value in zip(BLOCKS, values, strict=True):
                if value is not None:
                    row.setdefault(key, []).append(value)
    return [
        {"series": series, "dataset": dataset, "scope": scope, "block": block}
        | {key: mean(values) for key, values in row.items()}
        for (series, dataset, scope, block), row in sums.items()
    ]


def _blocks(key: str, look: Look) -> Chart:
    title, label, text = BLOCKS[key]
    base = (
        named("blocks")
        .transform_filter(f"{look.chosen()} && isValid(datum.{key})")
        .transform_aggregate(value=f"mean({key})", groupby=["series", "block"])
        .encode(
            x=alt.X("block:Q", title="block", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title=label),
            tooltip=[tip("series:N"), tip("block:Q"), tip("value:Q", ".4~g", label)],
        )
    )
    return look.finish(title, f"{text} Mean over the chosen datasets and all seeds.", look.lines(base))


def _gain(records: Sequence[Record], look: Look) -> tuple[Rows, Chart]:
    """A point per method, dataset, seed and half.

    Raises:
        UserError: Without zero-shot among the records, or with the same run twice.
    """
    points = [p for p in gain_points(runs_of(records)) if p["discrepancy"] > 0]
    rows = [
        {"series": p["method"], "dataset": p["dataset"], "scope": f"{p['half']} classes", "seed": p["seed"],
         "discrepancy": p["discrepancy"], "gain": p["gain"]}
        for p in points
    ]  # fmt: skip
    lively = "indexof(shown, datum.series) >= 0"
    points_chart = (
        named("gain")
        .transform_filter("(dataset == '' || datum.dataset == dataset) && datum.scope == scope")
        .transform_calculate(chosen=lively)
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("discrepancy:Q", title="discrepancy, sum over blocks", scale=alt.Scale(type="log"),
                    axis=alt.Axis(format="~g", tickCount=5)),
            y=alt.Y("gain:Q", title="gain over zero-shot, points"),
            color=look.colour,
            shape=look.shape,
            opacity=alt.condition("datum.chosen", alt.value(0.9), alt.value(0.12)),
            tooltip=[tip("series:N", title="method"), tip("dataset:N"), tip("seed:Q"),
                     tip("discrepancy:Q", ".3~g"), tip("gain:Q", "+.2f")],
        )
    )  # fmt: skip
    level = alt.Chart(alt.Data(values=[{"gain": 0}])).mark_rule(color="var(--soft)", strokeDash=[4, 4])
    by_half = {half: [p for p in points if p["half"] == half] for half in HALVES}
    found = "; ".join(f"{half} {correlation(own).text}" for half, own in by_half.items() if len(own) > 2)
    text = "A point per dataset and seed; methods that are not chosen are faint." + (
        f" Spearman's correlation over all points, 95 % interval by redrawing methods and datasets: {found}."
        if found
        else ""
    )
    whole = alt.layer(level.encode(y="gain:Q"), points_chart)
    return rows, look.finish("Discrepancy against gain over zero-shot", text, whole, height=300)


def _sheet(found: Sequence[Entry]) -> Any:
    def of(*path: str) -> Any:
        def value(record: Record) -> float | None:
            here: Any = record.shift
            for name in path:
                here = here[name]
            return here

        return value

    sheet = measure_sheet(
        "Feature shift",
        found,
        [
            ("text, mean of blocks", lambda r: _over_blocks(r, "text"), 3),
            ("image, mean of blocks", lambda r: _over_blocks(r, "image"), 3),
            ("discrepancy", of("total_discrepancy"), 4),
            ("text feature", of("text_feature", "relative", "mean"), 3),
            ("image feature", of("image_feature", "relative", "mean"), 3),
            ("matching cosine, frozen", of("before", "matching"), 3),
            ("matching cosine, tuned", of("after", "matching"), 3),
            ("modality gap, frozen", of("before", "gap"), 3),
            ("modality gap, tuned", of("after", "gap"), 3),
        ],
    )
    sheet.notes.append(
        "Matching cosine: mean over images of that to their own class. Modality gap: distance between the "
        "mean image feature and the mean class feature."
    )
    return sheet
