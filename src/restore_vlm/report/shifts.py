"""Figures of feature shift: by block, while training, against gain over zero-shot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from statistics import mean
from typing import Any

import altair as alt

from restore_vlm.errors import UserError
from restore_vlm.figures.figure import Figure, Numbers, Rows, rows_chart
from restore_vlm.figures.records import Record
from restore_vlm.figures.shift import (
    TOWERS,
    discrepancy_gain,
    discrepancy_gain_panels,
    shift_accuracy,
    shift_blocks_of,
    tower_shift,
)
from restore_vlm.figures.style import SeriesStyle, tip
from restore_vlm.report.labels import LabelledRecord
from restore_vlm.report.learning import shift_while_training
from restore_vlm.report.section import Section, by_choice, one_panel
from restore_vlm.report.tables import HtmlTable, measure_table


def shifts(found: Sequence[LabelledRecord], records: Sequence[Record], style: SeriesStyle) -> Section:
    """Everything about feature shift that was measured.

    Args:
        found: What the page is about.
        records: All that was read, variants of methods as well.
        style: Of the series.
    """
    section = Section("shift", "Feature shift", shift_while_training(found, style))
    measured = [r for r in found if r.shift and _moves(r)]
    if not measured:
        section.notes.append(
            "Not measured by block. For runs: restore-vlm shift RUN --data DATA with the --classes of their "
            "tests; grids measure it themselves."
            if not any(r.shift for r in found)
            else "Nothing moved: the embeddings are those of the frozen model."
        )
        return section
    section.notes.append(
        "Relative feature shift is ||tuned - frozen|| / ||frozen|| of the embeddings, 0 where nothing moved."
    )
    if any(r.shift[tower] for r in measured if r.shift for tower in TOWERS):
        section.figures.append(by_choice("shift-blocks", measured, _blocks, by_scope=True))
    if any(r.shift["discrepancy"] for r in measured if r.shift):
        section.figures.append(_discrepancy(measured, style))
    if not all(r.shows_blocks for r in measured):
        section.notes.append("A tower that shows no blocks is measured at its final features alone.")
    with suppress(UserError):
        section.figures.append(by_choice("shift-accuracy", found, shift_accuracy))
    with suppress(UserError):
        numbers = discrepancy_gain(records)
        panels = discrepancy_gain_panels(numbers.rows, numbers.summary, style.on("method"))
        section.figures.append(Figure("discrepancy-gain", numbers, panels))
    section.tables = [_table(measured)]
    return section


def _moves(record: Record) -> bool:
    assert record.shift is not None
    features = (record.shift[f"{tower}_feature"]["relative"]["mean"] for tower in ("text", "image"))
    return any(value > 1e-6 for value in (*features, _over_blocks(record, "text") or 0))


def _over_blocks(record: Record, tower: str) -> float | None:
    """Mean relative shift of the blocks of a tower that shows them."""
    return tower_shift(record, tower) if record.shift and record.shift[tower] else None


def _blocks(records: Sequence[LabelledRecord]) -> Numbers:
    groups: dict[str, list[Record]] = {}
    for r in records:
        groups.setdefault(r.series, []).append(r)
    return shift_blocks_of(groups)


def _discrepancy(found: Sequence[LabelledRecord], style: SeriesStyle) -> Figure:
    """The discrepancy of the towers by block, mean over seeds."""
    groups: dict[tuple[str, str, str, int], list[float]] = {}
    for r in found:
        assert r.shift is not None
        for block, value in enumerate(r.shift["discrepancy"], start=1):
            groups.setdefault((r.series, r.dataset, r.scope, block), []).append(value)
    rows: Rows = [
        {"series": series, "dataset": dataset, "scope": scope, "block": block, "discrepancy": mean(values)}
        for (series, dataset, scope, block), values in groups.items()
    ]
    base = (
        rows_chart()
        .transform_aggregate(discrepancy="mean(discrepancy)", groupby=["series", "block"])
        .encode(
            x=alt.X("block:Q", title="block", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("discrepancy:Q", title="discrepancy"),
            tooltip=[tip("series:N"), tip("block:Q"), tip("discrepancy:Q", ".4~g")],
        )
    )
    caption = "(text - image shift)², what L_fs keeps small. Mean over the chosen datasets and all seeds."
    return one_panel("Discrepancy by block", caption, style.lines(base), rows)


def _table(found: Sequence[LabelledRecord]) -> HtmlTable:
    def of(*path: str) -> Any:
        def value(record: Record) -> float | None:
            here: Any = record.shift
            for name in path:
                here = here[name]
            return here

        return value

    numbers = measure_table(
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
    numbers.notes.append(
        "Matching cosine: mean over images of that to their own class. Modality gap: distance between the "
        "mean image feature and the mean class feature."
    )
    return numbers
