"""Tables of the page: results, calibration, shift, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from restore_vlm.bench import Results, Store, Table, tables
from restore_vlm.bench.render import text as score_text
from restore_vlm.figures.numbers import HALVES, Spread, hm_by_run, over_seeds
from restore_vlm.figures.records import Record
from restore_vlm.report.labels import LabelledRecord, names

CLASSES, NOTES = 400, 6
MISSING = "-"


@dataclass(frozen=True)
class HtmlCell:
    """The text of a cell, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass
class HtmlTable:
    """A table that people can sort and filter.

    Attributes:
        title: The caption.
        columns: The names of the columns.
        rows: A list of cells for each row, one for each column.
        words: How many columns, from the left, are words and not numbers.
        notes: Sentences below the table.
    """

    title: str
    columns: list[str]
    rows: list[list[HtmlCell]]
    words: int = 1
    notes: list[str] = field(default_factory=list)


def number(value: float | None, digits: int = 1, best: bool = False) -> HtmlCell:
    return HtmlCell(MISSING if value is None else f"{value:.{digits}f}", best)


def spread(value: Spread | None, digits: int = 1) -> HtmlCell:
    if value is None:
        return HtmlCell(MISSING)
    beside = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return HtmlCell(f"{value.mean:.{digits}f}{beside}")


def grid_tables(path: Path) -> list[HtmlTable]:
    """The tables of a grid, as ``restore-vlm bench table`` prints them, averages first."""
    store, found = Store(path), []
    for common, cells in store.grids():
        changed = f" ({', '.join(common['settings'])})" if common["settings"] else ""
        for table in tables(common, Results(cells, store)):
            place = (len(common["settings"]), "average over" not in table.title)
            found.append((place, _grid_table(table, changed)))
    return [table for _, table in sorted(found, key=lambda item: item[0])]


def _grid_table(table: Table, changed: str) -> HtmlTable:
    top = [table.best(c) for c in range(len(table.columns))]
    rows = [
        [HtmlCell(row.label)]
        + [
            HtmlCell(MISSING if s.mean is None else score_text(s), i in top[c])
            for c, s in enumerate(row.scores)
        ]
        for i, row in enumerate(table.rows)
    ]
    title = f"{table.title[:1].upper()}{table.title[1:]}{changed}"
    return HtmlTable(title, ["method", *table.columns], rows, notes=_few(table.notes))


def _few(notes: Sequence[str]) -> list[str]:
    sentences = [f"{note[:1].upper()}{note[1:]}." for note in notes[:NOTES]]
    return [*sentences, f"And {len(notes) - NOTES} more."] if len(notes) > NOTES else sentences


def run_table(found: Sequence[LabelledRecord]) -> HtmlTable:
    """Every test of run folders with its interval, and the harmonic mean of base and novel."""
    columns = ["method", "dataset", "classes", "seed", "accuracy, %", "95 % interval", "ECE, %", "images"]
    rows = []
    for r in found:
        low, high = r.result["interval"]
        rows.append(
            [*map(HtmlCell, (r.label, r.dataset, r.part, str(r.seed))), number(r.accuracy),
             HtmlCell(f"{100 * low:.1f} to {100 * high:.1f}"), number(100 * r.result["calibration_error"]),
             HtmlCell(str(r.result["images"]))]
        )  # fmt: skip
    for name in dict.fromkeys(r.label for r in found):
        for (_, dataset, seed), value in hm_by_run(r for r in found if r.label == name).items():
            harmonic = [HtmlCell(dataset), HtmlCell("harmonic mean"), HtmlCell(str(seed)), number(value)]
            rows.append([HtmlCell(name), *harmonic, *[HtmlCell(MISSING)] * 3])
    notes = ["Intervals are Wilson's, over test images. ECE: expected calibration error."]
    if len({r.seed for r in found}) == 1:
        notes.append("One seed: there is no spread over seeds to show.")
    return HtmlTable("Tests", columns, rows, 3, notes)


Measure = tuple[str, Callable[[Record], float | None], int]


def measure_table(title: str, found: Sequence[LabelledRecord], measures: Sequence[Measure]) -> HtmlTable:
    """Measures of every series and test: average over datasets, mean and spread over seeds."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for r in found:
        groups.setdefault((r.label, r.scope or r.series), []).append(r)
    rows = [
        [HtmlCell(method), HtmlCell(scope)]
        + [spread(_over(own, value), digits) for _, value, digits in measures]
        for (method, scope), own in groups.items()
    ]
    seeds = {r.seed for r in found}
    note = f"Mean ± standard deviation over {len(seeds)} seeds." if len(seeds) > 1 else "One seed: no spread."
    return HtmlTable(title, ["method", "tested on", *(name for name, *_ in measures)], rows, 2, [note])


def _over(records: Sequence[Record], value: Callable[[Record], float | None]) -> Spread | None:
    values = {id(r): value(r) for r in records}
    known = [r for r in records if values[id(r)] is not None]
    return over_seeds(known, lambda r: values[id(r)] or 0.0) if known else None


def class_tables(found: Sequence[LabelledRecord]) -> list[HtmlTable]:
    """Accuracy and shift of every class, mean over seeds: one table of one method, else one each.

    Of base and novel classes where there are any, else of all that was tested.
    """
    tuned = [r for r in found if r.part in HALVES]
    found = tuned or found
    accuracy = _by_class(found, lambda r: r.result["per_class"], 100)
    shift = _by_class(found, lambda r: (r.shift or {}).get("by_class", {}), 1)
    methods = names(found)
    where = len({r.dataset for r in found}) > 1
    if len({r.label for r in found}) == 1:
        return [_one_method(found, accuracy, shift)]
    low = _pivot("Accuracy by class, %, hardest first", accuracy, methods, 1, where, hardest=True)
    if not shift:
        return [low]
    moving = [m for m in methods if any(row.get(m) for row in shift.values())]
    return [low, _pivot("Shift of the text feature by class, most shifted first", shift, moving, 3, where)]


Place = tuple[str, str, str]


def _by_class(
    found: Iterable[LabelledRecord], values: Callable[[Record], dict[str, Any]], scale: float
) -> dict[Place, dict[str, float]]:
    """By class, dataset and test, the mean over seeds of every series."""
    rows: dict[Place, dict[str, list[float]]] = {}
    for r in found:
        for name, value in values(r).items():
            if value is not None:
                place = (name, r.dataset, r.scope or r.series)
                rows.setdefault(place, {}).setdefault(r.series, []).append(scale * value)
    return {place: {s: mean(v) for s, v in row.items()} for place, row in rows.items()}


def _pivot(
    title: str,
    rows: dict[Place, dict[str, float]],
    series: Sequence[str],
    digits: int,
    where: bool,
    hardest: bool = False,
) -> HtmlTable:
    order = sorted(rows, key=lambda place: mean(rows[place].values()), reverse=not hardest)
    notes = [f"The first {CLASSES} of {len(rows)} classes."] if len(rows) > CLASSES else []
    cells = []
    for place in order[:CLASSES]:
        row = rows[place]
        values = {v for s, v in row.items() if s in series}
        top = max(values) if hardest and len(values) > 1 else None
        own = [number(row.get(s), digits, top is not None and row.get(s) == top) for s in series]
        name, dataset, scope = place
        cells.append([HtmlCell(name), *([HtmlCell(dataset)] if where else []), HtmlCell(scope), *own])
    words = ["class", *(["dataset"] if where else []), "tested on"]
    return HtmlTable(title, [*words, *series], cells, len(words), notes)


def _one_method(
    found: Sequence[LabelledRecord],
    accuracy: dict[Place, dict[str, float]],
    shift: dict[Place, dict[str, float]],
) -> HtmlTable:
    def value(rows: dict[Place, dict[str, float]], place: Place) -> float | None:
        return next(iter(rows.get(place, {}).values()), None)

    order = sorted(accuracy, key=lambda p: (-(value(shift, p) or 0.0), value(accuracy, p)))
    columns = ["class", "dataset", "tested on", "accuracy, %"] + (["shift of text feature"] if shift else [])
    rows = [
        [HtmlCell(name), HtmlCell(dataset), HtmlCell(scope), number(value(accuracy, (name, dataset, scope)))]
        + ([number(value(shift, (name, dataset, scope)), 3)] if shift else [])
        for name, dataset, scope in order[:CLASSES]
    ]
    notes = [f"The first {CLASSES} of {len(accuracy)} classes."] if len(accuracy) > CLASSES else []
    title = "Classes, most shifted first" if shift else "Classes, hardest first"
    return HtmlTable(title, columns, rows, 3, notes)
