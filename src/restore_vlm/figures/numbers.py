"""From records to the numbers of figures: scores by method, gains over zero-shot, correlations, intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import atanh, isnan, sqrt, tanh
from statistics import mean, stdev

import numpy as np

from restore_vlm.bench.compare import t_interval
from restore_vlm.errors import UserError
from restore_vlm.evaluation import harmonic_mean
from restore_vlm.figures.records import Record

HALVES = ("base", "novel")
ZERO = "clip"
Z95 = 1.959963984540054
DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean, and how sure it is.

    Attributes:
        value: The mean.
        low: Lower end of its 95 % interval; None from fewer than two values.
        high: Upper end.
        n: How many independent things the interval is over.
        over: What those are.
        p: Two-sided, of being zero, where there is a test for it.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    over: str = "points"
    p: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], over: str) -> Estimate:
        """Mean, t interval and t test of independent values, at least one."""
        low, high = t_interval(values) or (None, None)
        return cls(mean(values), low, high, len(values), over, _t_test(values))

    @property
    def text(self) -> str:
        """
        >>> Estimate(1.234, 0.5, 2.0, 3).text, Estimate(1.234, None, None, 1).text
        ('1.23 [0.50, 2.00]', '1.23')
        """
        if isnan(self.value):
            return "undefined"
        if self.low is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def _t_test(values: Sequence[float]) -> float | None:
    from scipy.stats import ttest_1samp  # type: ignore[import-untyped]

    return float(ttest_1samp(values, 0).pvalue) if len(values) > 1 and len(set(values)) > 1 else None


def halves(records: Iterable[Record]) -> list[Record]:
    """Tests on base and novel classes of the dataset that was learned, variants of methods apart.

    Variants are what a grid has under other settings than its table of most methods. A run folder whose
    settings were changed is a method of its own name.

    Raises:
        UserError: If there are none, one of them has one class, or two are of the same method, dataset and
            seed, such as those of different shots.
    """
    mine = [r for r in records if r.part in HALVES and r.dataset == r.source]
    usual = usual_settings(mine)
    found = [_named(r) for r in mine if r.protocol == "runs" or r.settings == usual]
    if not found:
        raise UserError(
            "No run is tested on base or novel classes; run restore-vlm bench base-to-novel, or train with "
            "--classes base and evaluate with --classes base and --classes novel."
        )
    if any(len(r.result["classes"]) < 2 for r in found):
        one = next(r for r in found if len(r.result["classes"]) < 2)
        raise UserError(f"{one.dataset} has one {one.part} class only, of which nothing can be told apart.")
    _refuse_twice(found)
    return found


def _refuse_twice(records: Iterable[Record]) -> None:
    seen: dict[tuple[str, str, str, int], Record] = {}
    for r in records:
        other = seen.setdefault((r.method, r.dataset, r.part, r.seed), r)
        if other is not r:
            shots = f" ({other.shots} and {r.shots} shots)" if other.shots != r.shots else ""
            raise UserError(
                f"{r.method} is there twice on {r.dataset}, {r.part}, seed {r.seed}{shots}; "
                "give runs and grids that have it once."
            )


def _named(record: Record) -> Record:
    if record.protocol != "runs" or not record.settings:
        return record
    return replace(record, method=f"{record.method} ({', '.join(record.settings)})")


def usual_settings(records: Iterable[Record]) -> tuple[str, ...]:
    """The settings of the table with most methods, of several the fewest."""
    methods: dict[tuple[str, ...], set[str]] = {}
    for r in records:
        if r.protocol != "runs":
            methods.setdefault(r.settings, set()).add(r.method)
    return min(methods, key=lambda s: (-len(methods[s]), len(s)), default=())


def variants(records: Iterable[Record]) -> dict[tuple[str, tuple[str, ...]], list[Record]]:
    """What a grid has of methods under other settings than the usual, by method and what was changed."""
    mine = [r for r in records if r.protocol == "base-to-novel" and r.part in HALVES]
    usual, found = usual_settings(mine), {}  # type: ignore[var-annotated]
    for r in mine:
        if r.settings != usual:
            changed = tuple(s for s in r.settings if s not in usual)
            found.setdefault((r.method, changed), []).append(r)
    return found


def methods_of(records: Iterable[Record]) -> list[str]:
    """Methods in order of first appearance, zero-shot first."""
    names = list(dict.fromkeys(r.method for r in records))
    return sorted(names, key=lambda name: name != ZERO)


def with_shift(records: Iterable[Record]) -> list[Record]:
    """Those whose feature shift was measured on the same classes as the test.

    Raises:
        UserError: If it was for none.
    """
    found = [r for r in records if r.shift]
    if not found:
        raise UserError(
            "No run has its feature shift measured on base or novel classes; run restore-vlm shift RUN "
            "--data DATA with --classes base and with --classes novel."
        )
    return found


@dataclass(frozen=True)
class Spread:
    """A mean over seeds.

    Attributes:
        mean: Of the seeds' values, each an average over datasets.
        std: Standard deviation over seeds; None for one seed, or where seeds do not differ.
        seeds: How many.
    """

    mean: float
    std: float | None
    seeds: int


def over_seeds(records: Sequence[Record], value: Callable[[Record], float]) -> Spread:
    """Average over datasets, seed by seed, of those seeds that have all datasets."""
    datasets = {r.dataset for r in records}
    rows: dict[int, dict[str, float]] = {}
    for r in records:
        rows.setdefault(r.seed, {})[r.dataset] = value(r)
    whole = [mean(row.values()) for row in rows.values() if row.keys() == datasets]
    if not whole:
        whole = [mean(v for row in rows.values() for v in row.values())]
    return Spread(mean(whole), stdev(whole) if len(whole) > 1 else None, len(whole))


def uneven(records: Iterable[Record]) -> str:
    """For a caption: which methods lack datasets or seeds that others have; empty if none does."""
    runs: dict[str, set[tuple[str, int]]] = {}
    for r in records:
        runs.setdefault(r.method, set()).add((r.dataset, r.seed))
    everything = set().union(*runs.values())
    fewer = [method for method, own in runs.items() if own != everything]
    return f" With fewer datasets or seeds: {', '.join(fewer)}." if fewer else ""


def zero_shot(records: Sequence[Record]) -> dict[tuple[str, str, int], float]:
    """Accuracy in % of zero-shot CLIP by dataset, half and seed.

    Where data has no split the test images depend on the seed. A seed without zero-shot has its mean over
    the others.

    Raises:
        UserError: If it is not among the records.
    """
    own: dict[tuple[str, str], dict[int, float]] = {}
    for r in records:
        if r.method == ZERO:
            own.setdefault((r.dataset, r.part), {})[r.seed] = r.accuracy
    if not own:
        raise UserError(f"Gains are over zero-shot, which is not among the runs; add the method {ZERO}.")
    return {
        (r.dataset, r.part, r.seed): seeds.get(r.seed, mean(seeds.values()))
        for r in records
        if (seeds := own.get((r.dataset, r.part)))
    }


def hm_by_run(records: Iterable[Record]) -> dict[tuple[str, str, int], float]:
    """Harmonic mean in % by method, dataset and seed, where both halves are there."""
    pairs: dict[tuple[str, str, int], dict[str, float]] = {}
    for r in records:
        pairs.setdefault((r.method, r.dataset, r.seed), {})[r.part] = r.accuracy
    return {k: harmonic_mean(p["base"], p["novel"]) for k, p in pairs.items() if len(p) == 2}


def pearson(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Correlation with the interval of Fisher's z; at least four points that are not all the same."""
    r = float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and np.std(x) and np.std(y) else float("nan")
    if len(x) < 4 or not abs(r) < 1:
        return Estimate(r, None, None, len(x))
    half = Z95 / sqrt(len(x) - 3)
    return Estimate(r, tanh(atanh(r) - half), tanh(atanh(r) + half), len(x))


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank."""
    return pearson(_ranks(x), _ranks(y)).value


def _ranks(values: Sequence[float]) -> list[float]:
    array = np.asarray(values, dtype=float)
    order = np.sort(array)
    low, high = np.searchsorted(order, array, "left"), np.searchsorted(order, array, "right")
    return [float(r) for r in (low + high + 1) / 2]


def clustered_spearman(x: Sequence[float], y: Sequence[float], cluster: Sequence[str]) -> Estimate:
    """Spearman's correlation with a percentile bootstrap that redraws whole clusters (seeded).

    Points of one method are not independent; the interval is that of redrawing methods. It needs four
    methods, and points that are not all the same.
    """
    members: dict[str, list[int]] = {}
    for i, name in enumerate(cluster):
        members.setdefault(name, []).append(i)
    groups, value = list(members.values()), spearman(x, y)
    if len(groups) < 4 or isnan(value):
        return Estimate(value, None, None, len(groups), "methods")
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        rows = [i for g in rng.integers(len(groups), size=len(groups)) for i in groups[g]]
        found.append(spearman([x[i] for i in rows], [y[i] for i in rows]))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(groups), "methods")


def paired(first: dict[tuple[str, int], float], second: dict[tuple[str, int], float]) -> Estimate:
    """first - second over the (dataset, seed) that both have; the interval is over datasets.

    Seeds of one dataset share its images, so each dataset counts once, with the mean over its seeds;
    where there is one dataset only the interval is over its seeds.

    Raises:
        UserError: If they share nothing.
    """
    common = first.keys() & second.keys()
    if not common:
        raise UserError("The two have no dataset and seed in common.")
    by_dataset: dict[str, list[float]] = {}
    for dataset, seed in sorted(common):
        by_dataset.setdefault(dataset, []).append(first[dataset, seed] - second[dataset, seed])
    means = [mean(v) for v in by_dataset.values()]
    if len(means) == 1:
        return Estimate.of(next(iter(by_dataset.values())), "seeds")
    return Estimate.of(means, "datasets")
