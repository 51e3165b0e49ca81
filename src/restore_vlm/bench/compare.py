"""Two methods compared pair by pair over datasets and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from restore_vlm.bench.scores import Board, Series, hm
from restore_vlm.errors import UserError, unknown

MEASURES = ("HM", "base", "novel", "accuracy")


@dataclass(frozen=True)
class Comparison:
    """The differences first - second, in points of %.

    Attributes:
        pairs: (what, seed, difference) for everything both have done.
        mean: Of the differences.
        interval: 95 % t interval of the mean; None for one pair.
        p: Of Wilcoxon's signed-rank test, two-sided; None where all differences are zero.
        wins: Pairs in which the first is better.
        losses: Pairs in which the second is.
    """

    pairs: list[tuple[str, int, float]]
    mean: float
    interval: tuple[float, float] | None
    p: float | None
    wins: int
    losses: int


def compare(board: Board, first: str, second: str, measure: str | None = None) -> Comparison:
    """Pairs the scores of two methods on the same dataset, shots and seed.

    The seeds of one dataset are not independent of each other, so that the interval is narrower
    than that of as many datasets; read the differences per dataset beside it.

    Args:
        board: Of one protocol.
        first: A method.
        second: Another.
        measure: ``HM``, ``base`` or ``novel`` for base-to-novel; elsewhere ``accuracy``; None is the
            protocol's own. Where there are targets, the source does not count.

    Raises:
        UserError: For an unknown method or measure, or without any pair.
    """
    methods = board.distinct("method")
    for method in (first, second):
        if method not in methods:
            raise unknown("method of this grid", method, methods)
    if first == second:
        raise UserError(f"{first!r} is given twice; name two methods.")
    halves = board.cells[0].protocol == "base-to-novel"
    measure = measure or ("HM" if halves else "accuracy")
    if measure not in (MEASURES[:3] if halves else MEASURES[3:]):
        raise unknown(
            f"measure of {board.cells[0].protocol}", measure, MEASURES[:3] if halves else MEASURES[3:]
        )
    mine, theirs = (_scores(board, method, measure) for method in (first, second))
    pairs = [
        (what, seed, value - other)
        for what, series in mine.items()
        for seed, value in series.items()
        if value is not None and (other := theirs.get(what, {}).get(seed)) is not None
    ]
    if not pairs:
        raise UserError(f"{first} and {second} have no finished run in common.")
    return _summary(pairs)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t interval of the mean; None for one value."""
    from scipy.stats import t  # type: ignore[import-untyped]

    if len(values) < 2:
        return None
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def _summary(pairs: list[tuple[str, int, float]]) -> Comparison:
    from scipy.stats import wilcoxon  # type: ignore[import-untyped]

    d = [difference for _, _, difference in pairs]
    p = float(wilcoxon(d).pvalue) if any(d) else None
    return Comparison(pairs, mean(d), t_interval(d), p, sum(x > 0 for x in d), sum(x < 0 for x in d))


def _scores(board: Board, method: str, measure: str) -> dict[str, Series]:
    found: dict[str, Series] = {}
    places = {
        (c.source, c.dataset, c.shots)
        for c in board.cells
        if c.method == method and (c.dataset != c.source or c.protocol in ("base-to-novel", "few-shot"))
    }
    for source, dataset, shots in sorted(places, key=str):
        where = {"method": method, "source": source, "dataset": dataset, "shots": shots}
        what = dataset if source == dataset else f"{source} to {dataset}"
        what += f", {shots or 'all'} shots" if len(board.distinct("shots")) > 1 else ""
        if measure == "accuracy":
            found[what] = board.series(**where)
            continue
        base, novel = (board.series(**where, part=part) for part in ("base", "novel"))
        found[what] = {"HM": hm(base, novel), "base": base, "novel": novel}[measure]
    return found


def show(found: Comparison, first: str, second: str, protocol: str) -> None:
    """Prints a comparison, per dataset and over all."""
    from restore_vlm.terminal import out, table

    rows = []
    for what in dict.fromkeys(what for what, _, _ in found.pairs):
        mine = [d for name, _, d in found.pairs if name == what]
        rows.append([what, f"{mean(mine):+.2f}", str(len(mine))])
    rows.append(["all", f"{found.mean:+.2f}", str(len(found.pairs))])
    table(f"{protocol}: {first} - {second}, points", "dataset", "mean difference", "pairs", rows=rows)
    interval = "unknown" if found.interval is None else "{:+.2f} to {:+.2f}".format(*found.interval)
    p = "all differences are zero" if found.p is None else f"p = {found.p:.3g}"
    out.print(
        f"95 % interval of the mean {interval}; Wilcoxon signed-rank test: {p}; {first} better in "
        f"{found.wins}, {second} in {found.losses} of {len(found.pairs)} pairs. Seeds of one dataset are "
        "not independent: with few datasets this says little about others.",
        highlight=False,
    )
