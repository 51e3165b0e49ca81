"""Prints how often the intervals of ``restore_vlm.evaluation.statistics`` cover the truth.

Scores of two methods differ by ``mean + dataset + seed + rest``; the variances of datasets and of seeds are
given as multiples of that of the rest. Beside the interval that is used stand two that are not: Student's t
over all pairs as if they were independent, and over the means of datasets.

    python scripts/simulate_intervals.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import t  # type: ignore[import-untyped]

from restore_vlm.evaluation.statistics import spearman, variance_of_mean

RATIOS = (
    (0, 0), (0.1, 0), (0.25, 0), (1, 0), (4, 0), (30, 0), (0, 0.1), (0, 0.25), (0, 1), (0, 4),
    (0.1, 0.1), (0.25, 0.25), (1, 0.25), (4, 0.25), (1, 1), (4, 4),
)  # fmt: skip
"""Variance of datasets and of seeds, that of the rest being 1."""
SHAPES = tuple((datasets, seeds) for datasets in (3, 4, 5, 8, 11) for seeds in (3, 5))
CORRELATIONS = ((1, 0, 0), (1, 0.5, 0), (0.2, 0, 0), (1, 2, 0), (1, 0, -0.7), (1, 0.5, -0.7), (1, 0, -0.95))
"""Variance of methods and of datasets, that of the rest being 0.5, and the correlation of methods."""


def tables(
    rng: np.random.Generator, count: int, shape: tuple[int, int], ratio: tuple[float, float]
) -> np.ndarray:
    """Differences whose true mean is zero, (count, datasets, seeds).

    With one dataset the truth is that of the dataset, which has no variance of its own then.
    """
    n, m = shape
    rows = rng.normal(size=(count, n, 1)) * np.sqrt(ratio[0] if n > 1 else 0)
    columns = rng.normal(size=(count, 1, m)) * np.sqrt(ratio[1])
    return rows + columns + rng.normal(size=(count, n, m))


def coverage(found: np.ndarray, variance: np.ndarray, freedom: np.ndarray | float) -> float:
    """Share in % of 95 % t intervals of means that hold zero."""
    return 100 * float(np.mean(np.abs(found) <= t.isf(0.025, freedom) * np.sqrt(variance)))


def difference_coverage(
    rng: np.random.Generator, count: int, shape: tuple[int, int], ratio: tuple[float, float]
) -> tuple[float, float, float]:
    """Coverage in % over pairs, over means of datasets (not a number of one), and as is used."""
    x = tables(rng, count, shape, ratio)
    n, m = shape
    mean = x.mean((1, 2))
    pairs = coverage(mean, x.reshape(count, -1).var(1, ddof=1) / (n * m), n * m - 1)
    over = coverage(mean, x.mean(2).var(1, ddof=1) / n, n - 1) if n > 1 else float("nan")
    return pairs, over, coverage(mean, *variance_of_mean(x))


def spearman_coverage(
    rng: np.random.Generator, count: int, shape: tuple[int, int], case: tuple[float, float, float]
) -> float:
    """Coverage in % of Spearman's over methods and datasets, three seeds each, as it is used."""
    (methods, datasets), (of_methods, of_datasets, rho) = shape, case
    truth = 6 / np.pi * np.arcsin(rho * of_methods / (of_methods + of_datasets + 0.5) / 2)
    places = [i.ravel() for i in np.indices((methods, datasets, 3))]
    of_method, of_dataset = ([str(i) for i in place] for place in places[:2])
    hits = 0
    for _ in range(count):
        own = rng.multivariate_normal([0, 0], of_methods * np.array([[1, rho], [rho, 1]]), size=methods).T
        x, y = (
            own[i][:, None, None]
            + rng.normal(size=(1, datasets, 1)) * np.sqrt(of_datasets)
            + rng.normal(size=(methods, datasets, 1)) * np.sqrt(0.3)
            + rng.normal(size=(methods, datasets, 3)) * np.sqrt(0.2)
            for i in (0, 1)
        )
        e = spearman(list(x.ravel()), list(y.ravel()), of_method, of_dataset, draws=299)
        hits += e.low is not None and e.high is not None and e.low <= truth <= e.high
    return 100 * hits / count


def difference_lines(count: int, seed: int) -> Iterator[str]:
    """The table of differences, in Markdown."""
    yield "| datasets | seeds | variance of datasets : seeds : rest | pairs | datasets | used |"
    yield "|---|---|---|---|---|---|"
    worst: list[float] = []
    for shape in (*SHAPES, (1, 3), (1, 5)):
        rng = np.random.default_rng(seed)
        for ratio in RATIOS if shape[0] > 1 else [r for r in RATIOS if not r[0]]:
            found = difference_coverage(rng, count, shape, ratio)
            worst.append(found[-1])
            cells = [*map(str, shape), "{:g} : {:g} : 1".format(*ratio), *(_percent(c) for c in found)]
            yield f"| {' | '.join(cells)} |"
    yield f"\nUsed: {min(worst):.1f} to {max(worst):.1f} % over {len(worst)} cells of {count} simulations."


def spearman_lines(count: int, seed: int) -> Iterator[str]:
    """The table of correlations, in Markdown."""
    yield "| methods | datasets | variance of methods : datasets : rest | correlation of methods | used |"
    yield "|---|---|---|---|---|"
    worst: list[float] = []
    for shape in ((10, 3), (10, 5), (13, 5), (13, 11)):
        rng = np.random.default_rng(seed)
        for case in CORRELATIONS:
            worst.append(spearman_coverage(rng, count, shape, case))
            cells = [*map(str, shape), f"{case[0]:g} : {case[1]:g} : 0.5", f"{case[2]:g}"]
            yield f"| {' | '.join([*cells, _percent(worst[-1])])} |"
    yield f"\nUsed: {min(worst):.1f} to {max(worst):.1f} % over {len(worst)} cells of {count} simulations."


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=20_000, help="simulations of differences a cell")
    parser.add_argument("--correlations", type=int, default=1_000, help="simulations of correlations a cell")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    for line in difference_lines(args.count, args.seed):
        print(line, flush=True)
    print()
    for line in spearman_lines(args.correlations, args.seed):
        print(line, flush=True)


if __name__ == "__main__":
    main()
