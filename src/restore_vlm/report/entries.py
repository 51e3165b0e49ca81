"""Records as a report tells them apart: by series, and by what was tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from restore_vlm.figures.accuracy import METHOD
from restore_vlm.figures.numbers import HALVES, ZERO, usual_settings
from restore_vlm.figures.records import Record

TRANSFER = ("cross-dataset", "domain-generalisation")
SHOWN = 6
"""Series drawn until a reader asks for more."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A record with its names.

    Attributes:
        record: The run and test.
        method: With what was changed of it, and its folder where two runs would have one name.
        series: What charts colour by: the method, or of one method the test.
        scope: Which test, such as ``novel classes``; empty where ``series`` says it.
    """

    record: Record
    method: str
    series: str
    scope: str


def entries(records: Sequence[Record]) -> list[Entry]:
    """Names the records, of each protocol those of most shots."""
    usual = usual_settings(records)
    found = _apart([_entry(r, usual) for r in _most_shots(records)])
    if len({e.method for e in found}) == 1:
        return [replace(e, series=e.scope, scope="") for e in found]
    return found


def names(found: Iterable[Entry]) -> list[str]:
    """The series, zero-shot first."""
    unique = list(dict.fromkeys(e.series for e in found))
    return sorted(unique, key=lambda name: name != ZERO)


def scopes(found: Iterable[Entry]) -> list[str]:
    """The tests, novel classes first, for these are what adapting may harm."""
    order = [f"{half} classes" for half in reversed(HALVES)]
    unique = list(dict.fromkeys(e.scope for e in found))
    return sorted(unique, key=lambda s: order.index(s) if s in order else len(order))


def at_first(found: Sequence[Entry]) -> list[str]:
    """The series drawn at first: zero-shot, RESTORE and the most accurate others."""
    rows: dict[str, list[float]] = {}
    for e in found:
        rows.setdefault(e.series, []).append(e.record.accuracy)
    best = sorted(rows, key=lambda s: (s not in (ZERO, METHOD), -mean(rows[s])))[:SHOWN]
    return [name for name in names(found) if name in best]


def _entry(record: Record, usual: tuple[str, ...]) -> Entry:
    known = () if record.protocol == "runs" else usual
    changed = [s for s in record.settings if s not in known]
    method = f"{record.method} ({', '.join(changed)})" if changed else record.method
    return Entry(record, method, method, _scope(record))


def _scope(record: Record) -> str:
    if record.protocol in TRANSFER and record.dataset != record.source:
        return f"transfer from {record.source}"
    return f"{record.part} classes"


def _most_shots(records: Sequence[Record]) -> list[Record]:
    def many(r: Record) -> float:
        return float("inf") if r.shots is None else r.shots

    most: dict[str, float] = {}
    for r in records:
        if r.protocol != "runs":
            most[r.protocol] = max(many(r), most.get(r.protocol, 0))
    return [r for r in records if r.protocol == "runs" or many(r) == most[r.protocol]]


def _apart(found: list[Entry]) -> list[Entry]:
    """Adds the folder's name where two runs have one name and did the same test."""

    def place(e: Entry) -> tuple[str, ...]:
        r = e.record
        return e.method, e.scope, r.protocol, r.dataset, str(r.seed)

    counts = Counter(place(e) for e in found)
    twice = {method for (method, *_), count in counts.items() if count > 1}
    return [_with_folder(e) if e.method in twice else e for e in found]


def _with_folder(entry: Entry) -> Entry:
    folder = entry.record.folder
    if folder is None:
        return entry
    where = folder if entry.record.protocol == "runs" else folder.parents[2]
    name = f"{entry.method} [{where.resolve().name}]"
    return replace(entry, method=name, series=name)
