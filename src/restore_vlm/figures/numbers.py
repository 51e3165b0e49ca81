"""From records to the numbers of figures: scores by method, means over seeds, gains over zero-shot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from restore_vlm.errors import UserError
from restore_vlm.evaluation.statistics import harmonic_mean
from restore_vlm.figures.records import Record

HALVES = ("base", "novel")
ZERO = "clip"


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


NO_SHIFT = (
    "No run has its feature shift measured on base or novel classes; run restore-vlm shift RUN --data DATA "
    "with --classes base and with --classes novel."
)


def with_shift(records: Iterable[Record]) -> list[Record]:
    """Those whose feature shift was measured, block by block, on the same classes as the test.

    Raises:
        UserError: If it was for none.
    """
    measured = [r for r in records if r.shift]
    found = [r for r in measured if r.shows_blocks]
    if measured and not found:
        raise UserError(
            f"The figures of feature shift look at blocks, and a tower of {measured[0].backbone} shows none; "
            "leave them out."
        )
    if not found:
        raise UserError(NO_SHIFT)
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


def hm_over_seeds(records: Sequence[Record]) -> Spread:
    """Harmonic mean of the average accuracies of both halves, in %; its spread is that of each seed's."""
    halves = [[r for r in records if r.part == half] for half in HALVES]
    seeds = set.intersection(*({r.seed for r in half} for half in halves))

    def hm(of: Sequence[Sequence[Record]]) -> float:
        return harmonic_mean(*(over_seeds(half, lambda r: r.accuracy).mean for half in of))

    mine = [[r for r in half if r.seed in seeds] for half in halves]
    each = [hm([[r for r in half if r.seed == seed] for half in mine]) for seed in sorted(seeds)]
    return Spread(hm(mine), stdev(each) if len(each) > 1 else None, len(each))


def uneven(records: Iterable[Record]) -> str:
    """For a caption: which methods lack datasets or seeds that others have; empty if none does."""
    runs: dict[str, set[tuple[str, int]]] = {}
    for r in records:
        runs.setdefault(r.method, set()).add((r.dataset, r.seed))
    everything = set().union(*runs.values())
    fewer = [method for method, own in runs.items() if own != everything]
    return f" With fewer datasets or seeds: {', '.join(fewer)}." if fewer else ""


def hm_by_run(records: Iterable[Record]) -> dict[tuple[str, str, int], float]:
    """Harmonic mean in % of each run, by method, dataset and seed, where both halves are there."""
    pairs: dict[tuple[str, str, int], dict[str, float]] = {}
    for r in records:
        pairs.setdefault((r.method, r.dataset, r.seed), {})[r.part] = r.accuracy
    return {k: harmonic_mean(p["base"], p["novel"]) for k, p in pairs.items() if len(p) == 2}
