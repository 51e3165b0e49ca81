import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restore_vlm.evaluation import summarise
from restore_vlm.evaluation.metrics import (
    expected_calibration_error,
    per_class_accuracy,
    reliability,
    true_class,
    wilson_interval,
    worst_confusions,
)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share(counts: tuple[int, int]) -> None:
    hits, total = counts
    low, high = wilson_interval(hits, total)
    assert -1e-12 <= low <= hits / total + 1e-12
    assert hits / total - 1e-12 <= high <= 1 + 1e-12


def test_wilson_interval_of_the_textbook() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


labelled = st.integers(2, 6).flatmap(
    lambda c: st.tuples(
        st.just(c), st.lists(st.tuples(st.integers(0, c - 1), st.integers(0, c - 1)), min_size=1, max_size=60)
    )
)


@given(labelled)
def test_per_class_and_confusions_add_up(case: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = case
    predicted, labels = (torch.tensor(x) for x in zip(*pairs, strict=True))
    per_class = per_class_accuracy(predicted, labels, classes)
    hits = sum((a or 0) * int((labels == c).sum()) for c, a in enumerate(per_class))
    assert round(hits) == int((predicted == labels).sum())
    assert all((a is None) == (not (labels == c).any()) for c, a in enumerate(per_class))
    mistakes = worst_confusions(predicted, labels, top=1000)
    assert sum(n for _, _, n in mistakes) == int((predicted != labels).sum())
    assert [n for _, _, n in mistakes] == sorted((n for _, _, n in mistakes), reverse=True)
    assert all(t != p for t, p, _ in mistakes)


def direct_ece(probabilities: torch.Tensor, labels: torch.Tensor, bins: int) -> float:
    total = 0.0
    for i in range(bins):
        inside = [
            (float(p.max()), float(p.argmax() == y))
            for p, y in zip(probabilities, labels, strict=True)
            if i / bins < float(p.max()) <= (i + 1) / bins
        ]
        if inside:
            gap = sum(c for _, c in inside) / len(inside) - sum(p for p, _ in inside) / len(inside)
            total += len(inside) / len(labels) * abs(gap)
    return total


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 5))
def test_calibration_error_is_the_definition(seed: int, n: int, classes: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(n, classes, generator=rng, dtype=torch.double)).softmax(-1)
    labels = torch.randint(classes, (n,), generator=rng)
    bins = reliability(probabilities, labels, bins=10)
    found = expected_calibration_error(bins)
    assert sum(b.count for b in bins) == n and all(0 <= b.accuracy <= 1 for b in bins)
    assert found == pytest.approx(direct_ece(probabilities, labels, 10), abs=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 5))
def test_true_class_is_counted_where_it_is(seed: int, n: int, classes: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    probabilities = (5 * torch.randn(n, classes, generator=rng, dtype=torch.double)).softmax(-1)
    labels = torch.randint(classes, (n,), generator=rng)
    own = [float(p[y]) for p, y in zip(probabilities, labels, strict=True)]
    mean, histogram = true_class(probabilities, labels, bins=10)
    assert mean == pytest.approx(sum(own) / n)
    assert histogram == [sum(min(int(v * 10), 9) == b for v in own) for b in range(10)]


def test_summary() -> None:
    probability = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    result = summarise(probability, torch.tensor([0, 1, 1]), ["cat", "dog"])
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.per_class == {"cat": 1.0, "dog": 0.5}
    assert result.confusions == [{"true": "dog", "predicted": "cat", "count": 1}]
    assert result.interval[0] < 2 / 3 < result.interval[1]
