import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from studies.restore.claims import CONTRADICTED, HOLDS, UNDECIDED, Claim

from restore_vlm import UserError
from restore_vlm.figures.numbers import Estimate, clustered_spearman, paired, pearson, spearman

numbers = st.lists(st.integers(-50, 50), min_size=5, max_size=30, unique=True)


@given(numbers, st.integers(0, 100))
def test_correlations_are_scipys(x: list[int], seed: int) -> None:
    y = list(np.random.default_rng(seed).integers(-5, 5, len(x)))
    if len(set(y)) < 2:
        return
    theirs = stats.pearsonr(x, y)
    mine = pearson(x, y)
    assert mine.value == pytest.approx(theirs.statistic, abs=1e-9)
    if abs(mine.value) < 0.999:
        interval = theirs.confidence_interval(0.95)
        assert (mine.low, mine.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=8)
    x = [c + 0.01 * rng.normal() for c in centre for _ in range(20)]
    y = [v + rng.normal() for v in np.repeat(centre, 20)]
    alone = clustered_spearman(x, y, [str(i) for i in range(len(x))])
    grouped = clustered_spearman(x, y, [str(i // 20) for i in range(len(x))])
    assert alone.value == grouped.value
    assert None not in (alone.low, grouped.low)
    assert grouped.high - grouped.low > alone.high - alone.low  # type: ignore[operator]
    assert clustered_spearman(x[:40], y[:40], ["a"] * 20 + ["b"] * 20).low is None


def test_paired_counts_a_dataset_once() -> None:
    first = {("a", 1): 3.0, ("a", 2): 5.0, ("b", 1): 10.0, ("c", 1): 99.0}
    second = {("a", 1): 1.0, ("a", 2): 1.0, ("b", 1): 1.0, ("d", 1): 0.0}
    found = paired(first, second)
    assert (found.value, found.n) == (6.0, 2)
    interval = stats.ttest_1samp([3.0, 9.0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    only = paired({("a", s): float(s) for s in (1, 2, 3)}, {("a", s): 0.0 for s in (1, 2, 3)})
    assert (only.value, only.n) == (2.0, 3)
    with pytest.raises(UserError, match="in common"):
        paired({("a", 1): 1.0}, {("b", 1): 1.0})


def test_constant_gains_have_no_correlation() -> None:
    found = clustered_spearman([1.0, 2, 3, 4, 5], [0.0] * 5, list("abcde"))
    assert found.text == "undefined" and found.low is None
    assert Claim("", "", -1, found).verdict == UNDECIDED


def test_p_is_that_of_the_t_test() -> None:
    values = [1.0, 2.5, 0.5, 4.0]
    assert Estimate.of(values, "datasets").p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert Estimate.of([1.0], "datasets").p is None


@pytest.mark.parametrize(
    ("low", "high", "expected", "verdict"),
    [
        (1, 2, 1, HOLDS),
        (1, 2, -1, CONTRADICTED),
        (-2, -1, -1, HOLDS),
        (-1, 1, 1, UNDECIDED),
        (None, None, 1, UNDECIDED),
    ],
)
def test_verdicts(low: float | None, high: float | None, expected: int, verdict: str) -> None:
    assert Claim("", "", expected, Estimate(1.5, low, high, 3)).verdict == verdict
