"""The statistics of every comparison: harmonic mean, paired differences, rank correlation, many tests.

One interval per kind of question. ``scripts/simulate_intervals.py`` prints how often each of them covers the
truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from restore_vlm.errors import UserError

LEVEL = 0.05
"""Of every test; intervals are 95 %."""
DRAWS = 9_999
ROUNDING = 1e-9
"""Differences that are the same to this share of the largest are the same."""

Scores = Mapping[tuple[str, int], float]
"""By dataset and seed."""


def harmonic_mean(base: float, novel: float) -> float:
    """HM of two accuracies, 2bn / (b + n); 0 if both are 0.

    Of several seeds or datasets, papers report the HM of their average accuracies. The mean of their HMs is
    another number, at most as large.
    """
    return 2 * base * novel / (base + novel) if base + novel else 0.0


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: The estimate.
        low: Lower end of its 95 % interval; None where there is too little to tell.
        high: Upper end.
        p: Two-sided p value of the true one being zero, of the same method as the interval.
        over: What the interval is over, such as ``5 datasets x 3 seeds``.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    over: str = ""

    @property
    def text(self) -> str:
        """The number with its interval.

        >>> Estimate(1.234, 0.5, 2.0).text, Estimate(1.234).text
        ('1.23 [0.50, 2.00]', '1.23')
        """
        if math.isnan(self.value):
            return "undefined"
        if self.low is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def difference(first: Scores, second: Scores) -> Estimate:
    """Mean of first - second over datasets and seeds, as it would be over other datasets and seeds.

    The seeds of a grid are shared: the same seed draws the same initial prompts on every dataset, and across
    datasets one training run is tested on them all. So the difference on a dataset with a seed is taken as
    ``mean + dataset + seed + rest``, the last three random with variances of their own, and the interval is
    that of :func:`crossed`. With one dataset it is over seeds and says nothing about others, with one seed,
    or none that two datasets share, over the means of datasets.

    Datasets that lack a seed are dealt with by leaving out as few pairs as possible (:func:`rectangle`).

    Args:
        first: Scores of one method.
        second: Scores of another.

    Raises:
        UserError: If they share no dataset and seed.
    """
    common = first.keys() & second.keys()
    if not common:
        raise UserError("The two have no dataset and seed in common.")
    return crossed(*rectangle({pair: first[pair] - second[pair] for pair in common}))


def rectangle(values: Scores) -> tuple[np.ndarray, str]:
    """The largest table of datasets by seeds without a hole that can be cut out of scores.

    Seeds that no two datasets share are different seeds of each; then the table has one column, of means.

    Returns:
        (datasets, seeds), and what that is in words.
    """
    seeds: dict[str, set[int]] = {}
    for dataset, seed in values:
        seeds.setdefault(dataset, set()).add(seed)
    having = {s: sum(s in own for own in seeds.values()) for own in seeds.values() for s in own}
    if len(seeds) > 1 and max(having.values()) == 1:
        means = [[math.fsum(values[d, s] for s in own) / len(own)] for d, own in sorted(seeds.items())]
        return np.array(means), f"{len(means)} datasets, each with its own seeds"
    common = sorted(having, key=lambda s: (-having[s], s))
    shapes = [
        ([d for d, own in sorted(seeds.items()) if own.issuperset(common[:n])], common[:n])
        for n in range(1, len(common) + 1)
    ]
    rows, columns = max(shapes, key=lambda shape: len(shape[0]) * len(shape[1]))
    table = np.array([[values[d, s] for s in sorted(columns)] for d in rows])
    left_out = len(values) - table.size
    words = f"{_count(len(rows), 'dataset')} x {_count(len(columns), 'seed')}"
    return table, words + (f"; {_count(left_out, 'other pair')} left out" if left_out else "")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("s" if n != 1 else "")


def crossed(table: np.ndarray, over: str = "") -> Estimate:
    """Mean of a table, and its interval if rows and columns are random samples.

    Student's t with the variance and degrees of freedom of :func:`variance_of_mean`.

    Args:
        table: (datasets, seeds).
        over: What it is, in words.
    """
    from scipy.stats import t  # type: ignore[import-untyped]

    value = float(table.mean())
    variance, freedom = (float(x) for x in variance_of_mean(table))
    error = math.sqrt(variance)
    if math.isnan(freedom) or error <= ROUNDING * np.abs(table).max():
        return Estimate(value, over=over)
    half = float(t.isf(LEVEL / 2, freedom)) * error
    return Estimate(value, value - half, value + half, float(2 * t.sf(abs(value) / error, freedom)), over)


def variance_of_mean(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the mean of tables with random rows and columns, and its degrees of freedom.

    The restricted maximum likelihood of ``x = mean + row + column + rest``, for full tables in closed form:
    with the mean squares R, C and E of rows, columns and rest, the variance is (R + C - E) / (rows x
    columns). R or C below E is noise of a component that is not there, and is pooled with E (Thompson 1962,
    "The problem of negative estimates of variance components"). The degrees of freedom are Satterthwaite's
    (1946, doi:10.2307/3002019), not below those of rows or columns, whichever are fewer. Of one column, or
    row, it is that of the mean of independent values.

    Args:
        tables: (..., rows, columns).

    Returns:
        Variances and degrees of freedom (...); not a number of a table with one cell.
    """
    n, m = tables.shape[-2:]
    if n == 1 or m == 1:
        flat = tables.reshape(*tables.shape[:-2], n * m)
        if n * m == 1:
            nothing = np.full(flat.shape[:-1], np.nan)
            return nothing, nothing
        return flat.var(-1, ddof=1) / (n * m), np.full(flat.shape[:-1], n * m - 1.0)
    mean = tables.mean((-2, -1), keepdims=True)
    rows, columns = tables.mean(-1, keepdims=True), tables.mean(-2, keepdims=True)
    sums = (
        m * ((rows - mean) ** 2).sum((-2, -1)),
        n * ((columns - mean) ** 2).sum((-2, -1)),
        ((tables - rows - columns + mean) ** 2).sum((-2, -1)),
    )
    free = (n - 1, m - 1, (n - 1) * (m - 1))
    r, c, e = (s / f for s, f in zip(sums, free, strict=True))
    no_rows, no_columns = ((sums[i] + sums[2]) / (free[i] + free[2]) for i in (0, 1))
    both = r + c - e
    with np.errstate(divide="ignore", invalid="ignore"):
        satterthwaite = both**2 / (r**2 / free[0] + c**2 / free[1] + e**2 / free[2])
    cases = [(r > e) & (c > e), (r <= e) & (c > no_rows), (c <= e) & (r > no_columns)]
    variance = np.select(cases, [both, c, r], sum(sums) / (n * m - 1))
    freedom = np.select(cases, [np.maximum(satterthwaite, min(free[:2])), free[1], free[0]], float(n * m - 1))
    return variance / (n * m), freedom


def spearman(
    x: Sequence[float],
    y: Sequence[float],
    methods: Sequence[str],
    datasets: Sequence[str],
    draws: int = DRAWS,
) -> Estimate:
    """Spearman's rank correlation of points that share methods and datasets.

    Points of one method are not independent, nor are those of one dataset: both are redrawn with
    replacement, independently of each other, and a point counts as often as its method times its dataset was
    drawn (the pigeonhole bootstrap, Owen 2007, doi:10.1214/07-AOAS122). The interval is Student's t of
    Fisher's z with the standard deviation over seeded draws and one degree of freedom less than there are
    methods.

    Args:
        x: One coordinate of each point.
        y: The other.
        methods: The method of each.
        datasets: The dataset of each.
        draws: How often to redraw.

    Returns:
        Without an interval for fewer than four methods, or where one coordinate does not vary.
    """
    from scipy.stats import t

    names, sets = (np.unique(np.asarray(of), return_inverse=True)[1] for of in (methods, datasets))
    counts = int(names.max()) + 1, int(sets.max()) + 1
    over = f"{_count(counts[0], 'method')} x {_count(counts[1], 'dataset')}"
    value = float(_weighted_spearman(x, y, np.ones((1, len(names))))[0])
    if counts[0] < 4 or math.isnan(value):
        return Estimate(value, over=over)
    rng = np.random.default_rng(0)
    often = [rng.multinomial(n, np.full(n, 1 / n), size=draws) for n in counts]
    found = _weighted_spearman(x, y, often[0][:, names] * often[1][:, sets])
    edge = 1 - ROUNDING
    error = np.arctanh(found[~np.isnan(found)].clip(-edge, edge)).std(ddof=1)
    if not error > 0:
        return Estimate(value, over=over)
    z, half = math.atanh(min(max(value, -edge), edge)), float(t.isf(LEVEL / 2, counts[0] - 1)) * error
    p = float(2 * t.sf(abs(z) / error, counts[0] - 1))
    return Estimate(value, math.tanh(z - half), math.tanh(z + half), p, over)


def _weighted_spearman(x: Sequence[float], y: Sequence[float], weights: np.ndarray) -> np.ndarray:
    """Rank correlation of (n,) points for each row of (draws, n) weights, which repeat points so often."""
    total = weights.sum(1, keepdims=True)
    centred = []
    for values in (x, y):
        place = np.unique(np.asarray(values, dtype=float), return_inverse=True)[1]
        each = weights @ (place[:, None] == np.arange(place.max() + 1)).astype(float)
        rank = (each.cumsum(1) - each / 2)[:, place]
        centred.append(rank - (weights * rank).sum(1, keepdims=True) / total)
    a, b = centred
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights * a * b).sum(1) / np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """p values corrected for how many they are (Holm 1979); None, where there was no test, does not count.

    The chance that any true null hypothesis is rejected stays at the level, whatever their dependence.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    tested = sorted((value, i) for i, value in enumerate(p) if value is not None)
    found: list[Any] = [None] * len(p)
    worst = 0.0
    for rank, (value, i) in enumerate(tested):
        worst = max(worst, min(1.0, (len(tested) - rank) * value))
        found[i] = worst
    return found
