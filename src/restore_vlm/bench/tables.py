"""The tables of a grid, laid out as its protocol says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from restore_vlm.bench.scores import Results, Score, average, best, measured
from restore_vlm.evaluation.protocol import Column, Measure, Protocol


@dataclass
class Row:
    """A method's scores, by column; published ones are never compared."""

    label: str
    scores: list[Score]
    published: bool = False


@dataclass
class Table:
    """Methods by columns, accuracy in %.

    Attributes:
        title: What it is about.
        columns: Their names.
        rows: One per method.
        notes: Sentences to print below.
    """

    title: str
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def best(self, column: int) -> set[int]:
        """The rows that are best in a column; none where there is nothing to compare."""
        own = [None if row.published else row.scores[column] for row in self.rows]
        return best(own) if sum(s is not None for s in own) > 1 else set()


def tables(conditions: Mapping[str, Any], results: Results) -> list[Table]:
    """All tables of a grid, as its protocol lays them out.

    Args:
        conditions: What the results share; goes into the notes.
        results: Of one protocol.
    """
    layout = results.protocol.layout
    found = []
    for group in _groups(results, layout.tables[:-1]):
        own = list(_groups(results, layout.tables[-1:], group))
        found += [_table(results, where, [where["source"]]) for where in own]
        if layout.average and len(own) > 1:
            found.append(_table(results, group, [where["source"] for where in own]))
        _add_published(found[-1], results, group)
    found[-1].notes += [_conditions(conditions, results), *results.notes()]
    return found


Where = dict[str, Any]
"""Fields of a result key, and their values."""


def _groups(
    results: Results, fields: Sequence[str], within: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[Where]:
    """Every combination of the fields' values that occurs."""
    if not fields:
        yield dict(within)
        return
    for value in results.distinct(fields[0], **within):
        yield from _groups(results, fields[1:], {**within, fields[0]: value})


def _table(results: Results, where: Where, sources: Sequence[str]) -> Table:
    """The table of results that have these fields; of several sources, their averages."""
    shared = {} if results.protocol.layout.average else where  # tables that are averaged have the same rows
    columns = [c for column in results.protocol.layout.columns for c in _resolved(column, results, shared)]

    def row(method: str) -> Row:
        same = {**where, "method": method}
        scores = [
            _score(results, measure, [{**same, "source": source, **w} for source in sources for w in over])
            for _, measure, over in columns
        ]
        return Row(method, scores)

    rows = [row(method) for method in results.distinct("method", **shared)]
    return Table(_title(results.protocol, where, sources), [heading for heading, *_ in columns], rows)


def _resolved(column: Column, results: Results, where: Where) -> list[tuple[str, Measure, list[Where]]]:
    """The headings that a column stands for, each with what it is the average of."""
    if column.each == "shots":
        values = sorted(results.distinct("shots", **where), key=lambda k: (k is None, k))
        return [(_shots(k), column.measure, [{"shots": k}]) for k in values]
    if column.each is None and not column.over_targets:
        return [(column.name or column.measure.name, column.measure, [{}])]
    targets = [d for d in results.distinct("dataset", **where) if d != where["source"]]
    if column.over_targets:
        return [(column.name, column.measure, [{"dataset": d} for d in targets])]
    return [(d, column.measure, [{"dataset": d}]) for d in (where["source"], *targets)]


def _score(results: Results, measure: Measure, places: Sequence[Where]) -> Score:
    """A measure whose terms are averages over places."""
    terms = [average([results.by_seed(term, **where) for where in places]) for term in measure.terms]
    seedless = all(results.seedless(term, **where) for term in measure.terms for where in places)
    return measured(measure, terms, seedless)


def _title(protocol: Protocol, where: Where, sources: Sequence[str]) -> str:
    over = f"average over {len(sources)} datasets" if len(sources) > 1 else sources[0]
    parts = [protocol.name, f"trained on {over}" if protocol.transfer else over]
    return ", ".join([*parts, *([_shots(where["shots"])] if "shots" in where else [])])


def _add_published(table: Table, results: Results, where: Where) -> None:
    """Published rows, where the datasets they are of are among those measured."""
    known = results.protocol.published
    if known is None or where.get("shots") != known.shots:
        return
    if not set(results.distinct("source", **where)) & set(known.datasets):
        return
    for method, source, values in known.rows:
        label = f"{method} (published, {source})"
        table.rows.append(Row(label, [Score(value) for value in values], published=True))
    table.notes.append(
        f"published: {known.about}; not measured here, and not the datasets above unless all "
        f"{len(known.datasets)}"
    )


def _conditions(conditions: Mapping[str, Any], results: Results) -> str:
    seeds = len(results.distinct("seed"))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    parts = [
        f"accuracy in %, {spread}",
        f"backbone {conditions.get('backbone')}",
        str(conditions.get("precision")),
    ]
    if conditions.get("recipe") != "auto":
        parts.append(f"recipe {conditions.get('recipe')}")
    return "; ".join([*parts, *conditions.get("settings", ())])


def _shots(shots: int | None) -> str:
    return "all images" if shots is None else f"{shots} shot{'s' if shots > 1 else ''}"
