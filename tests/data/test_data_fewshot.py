from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_vlm.data import Dataset, Item, sample, short_classes
from restore_vlm.errors import UserError


def made(counts: list[int], split: bool) -> Dataset:
    items = [
        Item(Path(f"{label}/{i}"), label)
        for i in range(max(counts))
        for label, n in enumerate(counts)
        if i < n
    ]
    test = [Item(Path("test"), 0)] if split else []
    return Dataset(
        "toy", [f"c{i}" for i in range(len(counts))], items, test, items[:3] if split else [], split
    )


COUNTS = st.lists(st.integers(1, 12), min_size=2, max_size=8)


@given(counts=COUNTS, shots=st.integers(1, 14), seed=st.integers(0, 2**40), split=st.booleans())
def test_sampling(counts: list[int], shots: int, seed: int, split: bool) -> None:
    dataset = made(counts, split)
    drawn = sample(dataset, shots, seed)
    assert drawn == sample(dataset, shots, seed)
    assert Counter(item.label for item in drawn.train) == {i: min(n, shots) for i, n in enumerate(counts)}
    assert len(set(drawn.train)) == len(drawn.train) and set(drawn.train) <= set(dataset.train)
    if split:
        assert drawn.test == dataset.test
    else:
        assert drawn.split and not set(drawn.test) & set(drawn.train)
        assert set(drawn.test) | set(drawn.train) == set(dataset.train)
        assert drawn.test == [item for item in dataset.train if item in set(drawn.test)]
    assert short_classes(dataset, shots) == {f"c{i}": n for i, n in enumerate(counts) if n < shots}


def test_val_has_four_shots_at_most() -> None:
    dataset = made([9, 9], True)
    dataset.val = dataset.train
    assert len(sample(dataset, 8, 1).val) == 8
    assert len(sample(dataset, 2, 1).val) == 4


def test_everything() -> None:
    dataset = made([3, 2], False)
    assert sample(dataset, None, 1) == dataset


def test_shots_below_one() -> None:
    with pytest.raises(UserError, match="0 shots"):
        sample(made([3, 2], False), 0, 1)
