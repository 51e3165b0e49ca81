"""Tables of a report: results, calibration, shift, classes."""

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
from restore_vlm.report.entries import Entry, names

CLASSES, NOTES = 400, 6
MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """Text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass
class Sheet:
    """A table people can sort and filter.

    Attributes:
        title: Caption.
        columns: Names.
        rows: Of as many cells.
        words: How many columns, from the left, are not numbers.
        notes: Sentences below.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    words: int = 1
    notes: list[str] = field(default_factory=list)


def number(value: float | None, digits: int = 1, best: bool = False) -> Cell:
    return Cell(MISSING if value is None else f"{value:.{digits}f}", best)


def spread(value: Spread | None, digits: int = 1) -> Cell:
    if value is None:
        return Cell(MISSING)
    beside = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return Cell(f"{value.mean:.{digits}f}{beside}")


def grid_sheets(path: Path) -> list[Sheet]:
    """The tables of a grid, as ``restore-vlm bench table`` prints them, averages first."""
    store, found = Store(path), []
    for common, cells in store.grids():
        changed = f" ({', '.join(common['settings'])})" if common["settings"] else ""
        for table in tables(common, Results(cells, store)):
            place = (len(common["settings"]), "average over" not in table.title)
            found.append((place, _grid_sheet(table, changed)))
    return [sheet for _, sheet in sorted(found, key=lambda item: item[0])]


def _grid_sheet(table: Table, changed: str) -> Sheet:
    top = [table.best(c) for c in range(len(table.columns))]
    rows = [
        [Cell(row.label)]
        + [Cell(MISSING if s.mean is None else score_text(s), i in top[c]) for c, s in enumerate(row.scores)]
        for i, row in enumerate(table.rows)
    ]
    title = f"{table.title[:1].upper()}{table.title[1:]}{changed}"
    return Sheet(title, ["method", *table.columns], rows, notes=_few(table.notes))


def _few(notes: Sequence[str]) -> list[str]:
    sentences = [f"{note[:1].upper()}{note[1:]}." for note in notes[:NOTES]]
    return [*sentences, f"And {len(notes) - NOTES} more."] if len(notes) > NOTES else sentences


def run_sheet(found: Sequence[Entry]) -> Sheet:
    """Every test of run folders with its interval, and the harmonic mean of base and novel."""
    columns = ["method", "dataset", "classes", "seed", "accuracy, %", "95 % interval", "ECE, %", "images"]
    rows = []
    for e in found:
        r, (low, high) = e.record, e.record.result["interval"]
        rows.append(
            [Cell(e.method), Cell(r.dataset), Cell(r.part), Cell(str(r.seed)), number(r.accuracy),
             Cell(f"{100 * low:.1f} to {100 * high:.1f}"), number(100 * r.result["calibration_error"]),
             Cell(str(r.result["images"]))]
        )  # fmt: skip
    for name in dict.fromkeys(e.method for e in found):
        for (_, dataset, seed), value in hm_by_run(e.record for e in found if e.method == name).items():
            harmonic = [Cell(dataset), Cell("harmonic mean"), Cell(str(seed)), number(value)]
            rows.append([Cell(name), *harmonic, *[Cell(MISSING)] * 3])
    notes = ["Intervals are Wilson's, over test images. ECE: expected calibration error."]
    if len({e.record.seed for e in found}) == 1:
        notes.append("One seed: there is no spread over seeds to show.")
    return Sheet("Tests", columns, rows, 3, notes)


Measure = tuple[str, Callable[[Record], float | None], int]


def measure_sheet(title: str, found: Sequence[Entry], measures: Sequence[Measure]) -> Sheet:
    """Measures of every series and test: average over datasets, mean and spread over seeds."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for e in found:
        groups.setdefault((e.method, e.scope or e.series), []).append(e.record)
    rows = [
        [Cell(method), Cell(scope)] + [spread(_over(own, value), digits) for _, value, digits in measures]
        for (method, scope), own in groups.items()
    ]
    seeds = {e.record.seed for e in found}
    note = f"Mean ± standard deviation over {len(seeds)} seeds." if len(seeds) > 1 else "One seed: no spread."
    return Sheet(title, ["method", "tested on", *(name for name, *_ in measures)], rows, 2, [note])


def _over(records: Sequence[Record], value: Callable[[Record], float | None]) -> Spread | None:
    values = {id(r): value(r) for r in records}
    known = [r for r in records if values[id(r)] is not None]
    return over_seeds(known, lambda r: values[id(r)] or 0.0) if known else None


def class_sheets(found: Sequence[Entry]) -> list[Sheet]:
    """Accuracy and shift of every class, mean over seeds: one table of one method, else one each.

    Of base and novel classes where there are any, else of all that was tested.
    """
    tuned = [e for e in found if e.record.part in HALVES]
    found = tuned or found
    accuracy = _by_class(found, lambda r: r.result["per_class"], 100)
    shift = _by_class(found, lambda r: (r.shift or {}).get("by_class", {}), 1)
    methods = names(found)
    where = len({e.record.dataset for e in found}) > 1
    if len({e.method for e in found}) == 1:
        return [_one_method(found, accuracy, shift)]
    low = _pivot("Accuracy by class, %, hardest first", accuracy, methods, 1, where, hardest=True)
    if not shift:
        return [low]
    moving = [m for m in methods if any(row.get(m) for row in shift.values())]
    return [low, _pivot("Shift of the text feature by class, most shifted first", shift, moving, 3, where)]


Place = tuple[str, str, str]


def _by_class(
    found: Iterable[Entry], values: Callable[[Record], dict[str, Any]], scale: float
) -> dict[Place, dict[str, float]]:
    """By class, dataset and test, the mean over seeds of every series."""
    rows: dict[Place, dict[str, list[float]]] = {}
    for e in found:
        for name, value in values(e.record).items():
            if value is not None:
                place = (name, e.record.dataset, e.scope or e.series)
                rows.setdefault(place, {}).setdefault(e.series, []).append(scale * value)
    return {place: {s: mean(v) for s, v in row.items()} for place, row in rows.items()}


def _pivot(
    title: str,
    rows: dict[Place, dict[str, float]],
    series: Sequence[str],
    digits: int,
    where: bool,
    hardest: bool = False,
) -> Sheet:
    order = sorted(rows, key=lambda place: mean(rows[place].values()), reverse=not hardest)
    notes = [f"The first {CLASSES} of {len(rows)} classes."] if len(rows) > CLASSES else []
    cells = []
    for place in order[:CLASSES]:
        row = rows[place]
        values = {v for s, v in row.items() if s in series}
        top = max(values) if hardest and len(values) > 1 else None
        own = [number(row.get(s), digits, top is not None and row.get(s) == top) for s in series]
        name, dataset, scope = place
        cells.append([Cell(name), *([Cell(dataset)] if where else []), Cell(scope), *own])
    words = ["class", *(["dataset"] if where else []), "tested on"]
    return Sheet(title, [*words, *series], cells, len(words), notes)


def _one_method(
    found: Sequence[Entry], accuracy: dict[Place, dict[str, float]], shift: dict[Place, dict[str, float]]
) -> Sheet:
    def value(rows: dict[Place, dict[str, float]], place: Place) -> float | None:
        return next(iter(rows.get(place, {}).values()), None)

    order = sorted(accuracy, key=lambda p: (-(value(shift, p) or 0.0), value(accuracy, p)))
    columns = ["class", "dataset", "tested on", "accuracy, %"] + (["shift of text feature"] if shift else [])
    rows = [
        [Cell(name), Cell(dataset), Cell(scope), number(value(accuracy, (name, dataset, scope)))]
        + ([number(value(shift, (name, dataset, scope)), 3)] if shift else [])
        for name, dataset, scope in order[:CLASSES]
    ]
    notes = [f"The first {CLASSES} of {len(accuracy)} classes."] if len(accuracy) > CLASSES else []
    title = "Classes, most shifted first" if shift else "Classes, hardest first"
    return Sheet(title, columns, rows, 3, notes)
