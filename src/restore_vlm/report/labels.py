"""Records as the page tells them apart: by series, and by what was tested."""

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
"""How many series are drawn until a reader asks for more."""


@dataclass(frozen=True, eq=False)
class LabelledRecord(Record):
    """A record with what the page calls it.

    Attributes:
        label: The method, with what was changed of it, and its folder where two runs would have one name.
        series: What charts colour by: the label, or of one method the test.
        scope: Which test, such as ``novel classes``; empty where ``series`` says it.
    """

    label: str
    series: str
    scope: str


def labelled(records: Sequence[Record]) -> list[LabelledRecord]:
    """Labels the records, of each protocol those of most shots."""
    usual = usual_settings(records)
    found = _apart([_labelled(r, usual) for r in _most_shots(records)])
    if len({r.label for r in found}) == 1:
        return [replace(r, series=r.scope, scope="") for r in found]
    return found


def names(found: Iterable[LabelledRecord]) -> list[str]:
    """The series, zero-shot first."""
    unique = list(dict.fromkeys(r.series for r in found))
    return sorted(unique, key=lambda name: name != ZERO)


def scopes(found: Iterable[LabelledRecord]) -> list[str]:
    """The tests, novel classes first, for these are what adapting may harm."""
    order = [f"{half} classes" for half in reversed(HALVES)]
    unique = list(dict.fromkeys(r.scope for r in found))
    return sorted(unique, key=lambda s: order.index(s) if s in order else len(order))


def at_first(found: Sequence[LabelledRecord]) -> list[str]:
    """The series drawn at first: zero-shot, RESTORE and the most accurate others."""
    rows: dict[str, list[float]] = {}
    for r in found:
        rows.setdefault(r.series, []).append(r.accuracy)
    best = sorted(rows, key=lambda s: (s not in (ZERO, METHOD), -mean(rows[s])))[:SHOWN]
    return [name for name in names(found) if name in best]


def _labelled(record: Record, usual: tuple[str, ...]) -> LabelledRecord:
    known = () if record.protocol == "runs" else usual
    changed = [s for s in record.settings if s not in known]
    label = f"{record.method} ({', '.join(changed)})" if changed else record.method
    return LabelledRecord(**vars(record), label=label, series=label, scope=_scope(record))


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


def _apart(found: list[LabelledRecord]) -> list[LabelledRecord]:
    """Adds the folder's name where two runs have one label and did the same test."""

    def place(r: LabelledRecord) -> tuple[str, ...]:
        return r.label, r.scope, r.protocol, r.dataset, str(r.seed)

    counts = Counter(place(r) for r in found)
    twice = {label for (label, *_), count in counts.items() if count > 1}
    return [_with_folder(r) if r.label in twice else r for r in found]


def _with_folder(record: LabelledRecord) -> LabelledRecord:
    if record.folder is None:
        return record
    where = record.folder if record.protocol == "runs" else record.folder.parents[2]
    label = f"{record.label} [{where.resolve().name}]"
    return replace(record, label=label, series=label)
