"""Two methods compared pair by pair over datasets and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

from restore_vlm.bench.scores import Results, by_seed
from restore_vlm.errors import UserError, unknown
from restore_vlm.evaluation.protocol import Measure
from restore_vlm.evaluation.statistics import Estimate, difference


@dataclass(frozen=True)
class MethodComparison:
    """The differences first - second, in points of %.

    Attributes:
        pairs: Difference of everything both have done, by dataset and seed, mean over shots.
        estimate: Their mean, with the interval of :func:`restore_vlm.evaluation.statistics.difference`.
    """

    pairs: Mapping[tuple[str, int], float]
    estimate: Estimate

    @property
    def by_dataset(self) -> dict[str, list[float]]:
        """The differences of each dataset."""
        found: dict[str, list[float]] = {}
        for (dataset, _), value in self.pairs.items():
            found.setdefault(dataset, []).append(value)
        return found


def compare_methods(
    results: Results, first: str, second: str, measure: str | None = None
) -> MethodComparison:
    """Pairs the scores of two methods on the same dataset, shots and seed.

    Args:
        results: Of one protocol.
        first: A method.
        second: Another.
        measure: One of the protocol's, such as ``HM`` (of each run); None is its first. Where there
            are targets, the source does not count.

    Raises:
        UserError: For an unknown method or measure, or without any pair.
    """
    methods = results.distinct("method")
    for method in (first, second):
        if method not in methods:
            raise unknown("method of this grid", method, methods)
    if first == second:
        raise UserError(f"{first!r} is given twice; name two methods.")
    measures = {m.name: m for m in results.protocol.measures}
    measure = measure or next(iter(measures))
    if measure not in measures:
        raise unknown(f"measure of {results.protocol.name}", measure, measures)
    mine, theirs = (_of_runs(results, method, measures[measure]) for method in (first, second))
    shared = mine.keys() & theirs.keys()
    if not shared:
        raise UserError(f"{first} and {second} have no finished run in common.")
    both: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for dataset, shots, seed in sorted(shared, key=str):
        pair = mine[dataset, shots, seed], theirs[dataset, shots, seed]
        both.setdefault((dataset, seed), []).append(pair)
    one, other = ({k: mean(pair[i] for pair in pairs) for k, pairs in both.items()} for i in (0, 1))
    return MethodComparison({k: one[k] - other[k] for k in both}, difference(one, other))


def _of_runs(results: Results, method: str, measure: Measure) -> dict[tuple[str, int | None, int], float]:
    """What is done, by dataset, shots and seed."""
    places = {
        (key.source, key.dataset, key.shots)
        for key in results.keys
        if key.method == method and (results.protocol.transfer is None or key.dataset != key.source)
    }
    found = {}
    for source, dataset, shots in places:
        where = {"method": method, "source": source, "dataset": dataset, "shots": shots}
        name = dataset if source == dataset else f"{source} to {dataset}"
        terms = [results.by_seed(term, **where) for term in measure.terms]
        for seed, value in by_seed(measure, terms).items():
            if value is not None:
                found[name, shots, seed] = value
    return found


def show(found: MethodComparison, first: str, second: str, protocol: str) -> None:
    """Prints a comparison, per dataset and over all."""
    from restore_vlm.terminal import out, table

    e, mine = found.estimate, found.by_dataset
    rows = [[name, f"{mean(values):+.2f}", str(len(values))] for name, values in mine.items()]
    rows.append(["all", f"{e.value:+.2f}", str(len(found.pairs))])
    table(f"{protocol}: {first} - {second}, points", "dataset", "mean difference", "seeds", rows=rows)
    out.print(f"{_interval(e)} {_reach(found)}", highlight=False)


def _interval(e: Estimate) -> str:
    if e.low is None or e.high is None:
        return f"No interval of the mean: {e.over} are too few, or all differences are the same."
    return f"95 % interval of the mean {e.low:+.2f} to {e.high:+.2f}, p = {e.p:.3g}, over {e.over}."


def _reach(found: MethodComparison) -> str:
    datasets, seeds = ({pair[i] for pair in found.pairs} for i in (0, 1))
    if len(datasets) == 1:
        return "It says nothing about other datasets."
    if len(seeds) == 1:
        return "One seed: how much others would differ is not in it."
    return "Datasets and seeds both count as random; with few of either it is wide."
