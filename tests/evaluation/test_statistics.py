"""Intervals against textbook cases, a numerical likelihood, symmetries, and simulations of their coverage."""

import csv
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from restore_vlm.errors import UserError
from restore_vlm.evaluation.statistics import (
    Estimate,
    _weighted_spearman,
    crossed,
    difference,
    harmonic_mean,
    holm,
    rectangle,
    spearman,
    variance_of_mean,
)

ROOT = Path(__file__).parents[2]
share = st.floats(0, 1)
shapes = st.tuples(st.integers(2, 6), st.integers(2, 5))
seeds = st.integers(0, 10_000)


def table(seed: int, shape: tuple[int, int], rows: float = 1.0, columns: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    n, m = shape
    return (
        0.5
        + rng.normal(size=(n, 1)) * math.sqrt(rows)
        + rng.normal(size=(1, m)) * math.sqrt(columns)
        + rng.normal(size=shape)
    )


def scores(values: np.ndarray) -> dict[tuple[str, int], float]:
    return {(f"d{i}", j): float(v) for (i, j), v in np.ndenumerate(values)}


def ends(e: Estimate) -> tuple[float, float]:
    assert e.low is not None and e.high is not None
    return e.low, e.high


@given(share, share)
def test_harmonic_mean_lies_between(base: float, novel: float) -> None:
    value = harmonic_mean(base, novel)
    assert 0 <= value <= max(base, novel) + 1e-12
    assert value == harmonic_mean(novel, base)
    assert math.isclose(harmonic_mean(base, base), base, abs_tol=1e-12)


@given(st.lists(st.tuples(share, share), min_size=1, max_size=6))
def test_the_mean_of_harmonic_means_is_at_most_that_of_the_means(pairs: list[tuple[float, float]]) -> None:
    base, novel = np.mean(pairs, axis=0)
    assert np.mean([harmonic_mean(*pair) for pair in pairs]) <= harmonic_mean(base, novel) + 1e-12


@pytest.mark.parametrize("shape", [(1, 3), (5, 1)])
def test_one_row_or_column_is_students_t(shape: tuple[int, int]) -> None:
    values = table(3, shape)
    test = stats.ttest_1samp(values.ravel(), 0)
    found = difference(scores(values), dict.fromkeys(scores(values), 0.0))
    assert ends(found) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p == pytest.approx(test.pvalue)


def test_datasets_that_differ_much_are_students_t_over_their_means() -> None:
    values = np.array([[1.0, 1.1, 0.8], [5.2, 4.9, 5.0], [9.1, 9.0, 9.3], [-3.0, -2.7, -3.1]])
    test = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    assert ends(crossed(values)) == pytest.approx(tuple(test))


def restricted_likelihood(values: np.ndarray, variances: np.ndarray) -> float:
    """Twice the negative logarithm, by matrices."""
    n, m = values.shape
    a, b, e = variances
    v = a * np.kron(np.eye(n), np.ones((m, m))) + b * np.kron(np.ones((n, n)), np.eye(m)) + e * np.eye(n * m)
    inverse, one, x = np.linalg.inv(v), np.ones(n * m), values.ravel()
    information = one @ inverse @ one
    residual = x - one @ inverse @ x / information
    return np.linalg.slogdet(v)[1] + math.log(information) + residual @ inverse @ residual


@pytest.mark.parametrize("seed", range(12))
def test_variance_is_that_of_the_restricted_maximum_likelihood(seed: int) -> None:
    shape = [(3, 3), (5, 3), (4, 5)][seed % 3]
    values = table(seed, shape, *[(1, 1), (0, 0), (2, 0), (0, 2)][seed % 4])
    n, m = shape
    best = min(
        (
            optimize.minimize(
                lambda logs: restricted_likelihood(values, np.exp(logs.clip(-14, 14))), start,
                method="Nelder-Mead",
                options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 4000},
            )
            for start in ([0, 0, 0], [-6, 0, 0], [0, -6, 0], [-6, -6, 0])
        ),
        key=lambda found: found.fun,
    )  # fmt: skip
    a, b, e = np.exp(best.x.clip(-14, 14))
    assert float(variance_of_mean(values)[0]) == pytest.approx((m * a + n * b + e) / (n * m), rel=1e-2)


@given(seeds, shapes, st.floats(0.01, 100), st.floats(-50, 50))
def test_scaling_moving_swapping_and_shuffling(
    seed: int, shape: tuple[int, int], scale: float, move: float
) -> None:
    rng = np.random.default_rng(seed)
    first, second = table(seed, shape), table(seed + 1, shape)
    found = difference(scores(first), scores(second))
    low, high = ends(found)
    back = difference(scores(second), scores(first))
    assert (*ends(back), back.value) == pytest.approx((-high, -low, -found.value))
    assert back.p == pytest.approx(found.p)
    rows, columns = rng.permutation(shape[0]), rng.permutation(shape[1])
    shuffled = difference(scores(first[rows][:, columns]), scores(second[rows][:, columns]))
    assert ends(shuffled) == pytest.approx((low, high))
    scaled = difference(scores(first * scale + move), scores(second * scale))
    assert ends(scaled) == pytest.approx((low * scale + move, high * scale + move), rel=1e-6, abs=1e-6)


@given(seeds, shapes)
def test_p_is_below_its_level_where_the_interval_leaves_zero_out(seed: int, shape: tuple[int, int]) -> None:
    found = crossed(table(seed, shape))
    low, high = ends(found)
    assert low <= found.value <= high
    assert found.p is not None and (found.p < 0.05) == (not low <= 0 <= high)


@given(seeds, st.integers(2, 6), st.integers(2, 5))
def test_never_narrower_than_independent_pairs_would_be(seed: int, n: int, m: int) -> None:
    """Where one component is there; and of as many degrees of freedom as pairs at most."""
    variance, freedom = variance_of_mean(table(seed, (n, m)))
    assert variance > 0 and min(n, m) - 1 <= freedom <= n * m - 1


def test_too_little_for_an_interval() -> None:
    one = difference({("a", 1): 3.0}, {("a", 1): 1.0})
    assert (one.value, one.low, one.p) == (2.0, None, None)
    same = difference({("a", s): s + 0.1 for s in (1, 2, 3)}, {("a", s): float(s) for s in (1, 2, 3)})
    assert same.value == pytest.approx(0.1) and same.low is None and same.p is None
    zero = crossed(np.zeros((3, 3)))
    assert (zero.value, zero.low) == (0, None)
    with pytest.raises(UserError, match="no dataset and seed in common"):
        difference({("a", 1): 1.0}, {("b", 1): 1.0})


def test_pairs_that_others_lack_are_left_out_and_counted() -> None:
    values = scores(table(1, (4, 3))) | {("d0", 7): 99.0, ("e", 1): 99.0}
    found, words = rectangle(values)
    assert found.shape == (4, 3) and 99.0 not in found
    assert words == "4 datasets x 3 seeds; 2 other pairs left out"
    lacking = {pair: v for pair, v in scores(table(1, (4, 3))).items() if pair != ("d2", 1)}
    assert rectangle(lacking)[1] == "3 datasets x 3 seeds; 2 other pairs left out"


def test_seeds_that_no_datasets_share_are_nested() -> None:
    values = {("a", 1): 1.0, ("a", 2): 3.0, ("b", 3): 5.0, ("c", 4): 9.0}
    found, words = rectangle(values)
    assert found.tolist() == [[2.0], [5.0], [9.0]]
    assert words == "3 datasets, each with its own seeds"


def test_restore_against_ivlp_is_undecided() -> None:
    """Means of datasets agree here by chance, better than seeds would let them."""
    halves: dict[str, dict[tuple[str, int], dict[str, float]]] = {"restore": {}, "ivlp": {}}
    with (ROOT / "docs" / "study" / "runs.csv").open() as file:
        for r in csv.DictReader(file):
            if r["method"] in halves and not r["changed"]:
                pair = halves[r["method"]].setdefault((r["dataset"], int(r["seed"])), {})
                pair[r["part"]] = float(r["accuracy"])
    first, second = (
        {place: harmonic_mean(p["base"], p["novel"]) for place, p in halves[m].items()} for m in halves
    )
    found, (values, _) = difference(first, second), rectangle({k: first[k] - second[k] for k in first})
    assert values.mean(0).round(2).tolist() == [2.55, -1.05, 0.6]
    naive = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    assert (round(naive.low, 2), round(naive.high, 2)) == (0.23, 1.16)
    pairs = stats.ttest_1samp(values.ravel(), 0).confidence_interval(0.95)
    assert (round(pairs.low, 2), round(pairs.high, 2)) == (-0.75, 2.14)
    low, high = ends(found)
    assert low < pairs.low < 0 < pairs.high < high


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulation", ROOT / "scripts" / "simulate_intervals.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("shape", "ratio"),
    [
        ((3, 3), (4, 0)), ((5, 3), (0, 1)), ((5, 5), (1, 1)), ((8, 3), (1, 1)), ((11, 3), (4, 4)),
        ((11, 5), (1, 0)), ((1, 3), (0, 1)),
    ],
)  # fmt: skip
def test_intervals_cover_the_truth_as_often_as_they_say(
    simulation: ModuleType, shape: tuple[int, int], ratio: tuple[float, float]
) -> None:
    found = simulation.difference_coverage(np.random.default_rng(0), 8000, shape, ratio)
    assert 93 <= found[-1] <= 97


def test_intervals_are_too_wide_where_nothing_but_the_rest_varies(simulation: ModuleType) -> None:
    found = simulation.difference_coverage(np.random.default_rng(0), 8000, (5, 3), (0, 0))
    assert 97 < found[-1] < 99


@pytest.mark.parametrize("ratio", [(1, 0), (4, 0)])
@pytest.mark.parametrize("datasets", [3, 11])
def test_pairs_taken_as_independent_cover_too_little(
    simulation: ModuleType, datasets: int, ratio: tuple[float, float]
) -> None:
    assert 71 < simulation.difference_coverage(np.random.default_rng(0), 8000, (datasets, 3), ratio)[0] < 84


def test_the_script_prints_both_tables(simulation: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    simulation.main(["--count", "50", "--correlations", "2"])
    text = capsys.readouterr().out
    assert "| 11 | 5 | 4 : 4 : 1 |" in text and "| 13 | 11 | 1 : 0 : 0.5 | -0.95 |" in text
    assert text.count("Used: ") == 2


def points(seed: int, methods: int = 8, datasets: int = 4) -> tuple[list, list, list[str], list[str]]:
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=methods)
    places = [(m, d) for m in range(methods) for d in range(datasets) for _ in range(2)]
    x = [centre[m] + 0.3 * rng.normal() for m, _ in places]
    y = [-centre[m] + rng.normal() for m, _ in places]
    return x, y, [f"m{m}" for m, _ in places], [f"d{d}" for _, d in places]


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 3)), min_size=3, max_size=20)
)
def test_weights_are_repetitions(rows: list[tuple[int, int, int]]) -> None:
    x, y, weights = (list(column) for column in zip(*rows, strict=True))
    again = [[v for v, w in zip(values, weights, strict=True) for _ in range(w)] for values in (x, y)]
    if any(len(set(values)) < 2 for values in again):
        return
    found = _weighted_spearman(x, y, np.array([weights]))[0]
    assert found == pytest.approx(stats.spearmanr(*again).statistic, abs=1e-9)


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_spearman_is_scipys_and_has_its_symmetries(seed: int) -> None:
    x, y, methods, datasets = points(seed)
    found = spearman(x, y, methods, datasets, draws=200)
    low, high = ends(found)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert -1 < low < found.value < high < 1 and found.over == "8 methods x 4 datasets"
    assert found.p is not None and (found.p < 0.05) == (not low <= 0 <= high)
    changes: list[Callable[[list], list]] = [
        lambda v: [math.exp(u) for u in v],
        lambda v: [3 * u - 7 for u in v],
    ]
    for change in changes:
        assert ends(spearman(change(x), y, methods, datasets, draws=200)) == pytest.approx((low, high))
    swapped = spearman(y, x, methods, datasets, draws=200)
    assert ends(swapped) == pytest.approx((low, high))
    back = spearman(x, [-v for v in y], methods, datasets, draws=200)
    assert ends(back) == pytest.approx((-high, -low))
    order = np.random.default_rng(seed).permutation(len(x))
    shuffled = [[values[i] for i in order] for values in (x, y, methods, datasets)]
    assert ends(spearman(*shuffled, draws=200)) == pytest.approx((low, high))  # type: ignore[arg-type]


def test_shared_methods_and_shared_datasets_widen_the_interval() -> None:
    x, y, methods, datasets = points(0)
    single = [str(i) for i in range(len(x))]

    def width(of_methods: list[str], of_datasets: list[str]) -> float:
        low, high = ends(spearman(x, y, of_methods, of_datasets))
        return high - low

    assert width(methods, ["one"] * len(x)) > width(single, ["one"] * len(x))
    rng = np.random.default_rng(1)
    shared = {d: 2 * rng.normal() for d in set(datasets)}
    moved = [v + shared[d] for v, d in zip(y, datasets, strict=True)]
    both = ends(spearman(x, moved, methods, datasets))
    alone = ends(spearman(x, moved, methods, ["one"] * len(x)))
    assert both[1] - both[0] > alone[1] - alone[0]


def test_correlations_that_are_not_there() -> None:
    constant = spearman([1.0, 2, 3, 4, 5], [0.0] * 5, list("abcde"), ["d"] * 5)
    assert constant.text == "undefined" and constant.low is None
    few = spearman([1.0, 2, 3], [2.0, 1, 3], list("abc"), ["d"] * 3)
    assert few.value == pytest.approx(0.5) and few.low is None and few.p is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, None, 0.005]) == pytest.approx([0.03, 0.06, 0.06, None, 0.02])
    assert holm([]) == [] and holm([None]) == [None]


@given(st.lists(share, max_size=12), seeds)
def test_holm_keeps_the_order_and_is_between_none_and_bonferroni(p: list[float], seed: int) -> None:
    found = holm(p)
    for value, corrected in zip(p, found, strict=True):
        assert corrected is not None and value <= corrected <= min(1, len(p) * value) + 1e-12
    order = np.random.default_rng(seed).permutation(len(p))
    assert [found[i] for i in order] == holm([p[i] for i in order])
    assert all(a <= b for _, a, _, b in ((x, fx, y, fy) for x, fx in zip(p, found, strict=True)
               for y, fy in zip(p, found, strict=True) if x <= y))  # type: ignore[operator]  # fmt: skip
