"""A part of the page: figures, and tables that say the same in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from restore_vlm.figures import registry
from restore_vlm.figures.figure import Figure, Numbers, Panel, Rows
from restore_vlm.report.labels import LabelledRecord
from restore_vlm.report.tables import HtmlTable

CHOICE = "choice"
"""The column of rows that are of one dataset, or of all where it is empty."""


@dataclass
class Section:
    """A part of the page.

    Attributes:
        name: Its anchor.
        title: The heading.
        figures: In order.
        tables: Below the figures.
        notes: Sentences above them.
    """

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[HtmlTable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def one_panel(title: str, caption: str, chart: Any, rows: Rows) -> Figure:
    """A figure of one chart."""
    return Figure(title, Numbers(rows, caption), [Panel(title, chart, rows)])


def by_choice(
    name: str,
    records: Sequence[LabelledRecord],
    numbers: Callable[[Sequence[LabelledRecord]], Numbers],
    by_scope: bool = False,
) -> Figure:
    """A figure whose numbers are averages over datasets, for each dataset that a reader may choose as well.

    Args:
        name: One of :data:`restore_vlm.figures.NAMES`.
        records: What it is of.
        numbers: From some of them to what is drawn.
        by_scope: Whether a reader also chooses the test.
    """
    whole = numbers(records)
    datasets = list(dict.fromkeys(r.dataset for r in records))
    rows: Rows = []
    for scope in dict.fromkeys(r.scope for r in records) if by_scope else (None,):
        tested = [r for r in records if scope in (None, r.scope)]
        for choice in ("", *datasets) if len(datasets) > 1 else ("",):
            own = [r for r in tested if choice in ("", r.dataset)]
            if own:
                tags = {CHOICE: choice} | ({} if scope is None else {"scope": scope})
                rows += [row | tags for row in numbers(own).rows]
    return registry.figure(name, Numbers(rows, whole.caption))


def packed(rows: Rows) -> dict[str, Any]:
    """Rows as the columns' names and values, numbers to five digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": names, "rows": [[_short(row.get(name)) for name in names] for row in rows]}


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
