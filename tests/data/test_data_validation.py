import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.data_makers import folder
from restore_vlm.data import Dataset, Item, check, load_dataset, published, sample, validation_photos
from restore_vlm.data.validation import MOST


def made(counts: list[int], val: int = 0, split: bool = False) -> Dataset:
    def items(part: str, numbers: list[int]) -> list[Item]:
        return [Item(Path(f"{part}/{label}/{i}"), label) for label, n in enumerate(numbers) for i in range(n)]

    every = [val] * len(counts)
    test = items("test", [2] * len(counts)) if split else []
    names = [f"c{i}" for i in range(len(counts))]
    return Dataset("toy", names, items("train", counts), test, items("val", every), split or val > 0)


def hashes(data: Dataset) -> dict[Path, str]:
    return {item.path: str(item.path) for part in (data.train, data.val, data.test) for item in part}


COUNTS = st.lists(st.integers(1, 25), min_size=2, max_size=6)
SHARES = st.floats(0.05, 0.9)


@given(COUNTS, st.one_of(st.none(), st.integers(1, 20)), st.integers(0, 99), SHARES, st.booleans())
def test_without_a_validation_split(
    counts: list[int], shots: int | None, seed: int, share: float, split: bool
) -> None:
    full = made(counts, split=split)
    few = sample(full, shots, seed)
    kept, found = validation_photos(full, few, shots, seed, hashes(full), share, False)
    assert (kept, found) == validation_photos(full, few, shots, seed, hashes(full), share, False)
    train = set(kept.train)
    assert set(found.choosing) | set(found.reporting) <= set(full.train) - train
    assert len(set(found.reporting)) == len(found.reporting)
    assert train <= set(few.train) and len(few.train) - len(train) == found.held_back
    for label, n in enumerate(counts):
        drawn = min(n, shots or n)
        before, after, given_up = (
            sum(item.label == label for item in part) for part in (few.train, kept.train, found.reporting)
        )
        assert after >= 1
        if n < 5:
            assert after == before
        else:
            wanted = max(1, int(share * drawn))
            assert after == min(before, n - wanted)
            assert given_up >= wanted
        chosen = sum(item.label == label for item in found.choosing)
        assert chosen == min(shots or 4, 4, math.ceil((n - after) / 2))
    if not split:
        assert set(kept.test) == set(full.train) - train


@given(COUNTS, st.integers(1, 20), st.integers(0, 99))
def test_a_published_sample_is_never_made_smaller(counts: list[int], shots: int, seed: int) -> None:
    full = made(counts, split=True)
    few = sample(full, shots, seed)
    kept, found = validation_photos(full, few, shots, seed, hashes(full), 0.2, True)
    assert kept == few and found.held_back == 0
    assert len(found.reporting) == sum(max(0, n - shots) for n in counts)


@pytest.mark.parametrize("shots", [1, 2, 16])
def test_a_validation_split_is_drawn_from_as_published(shots: int) -> None:
    full = made([20, 20, 3], val=9)
    few = sample(full, shots, 1)
    kept, found = validation_photos(full, few, shots, 1, hashes(full), 0.2, False)
    assert kept == few and found.held_back == 0
    assert found.choosing == few.val
    assert Counter(i.label for i in found.choosing) == dict.fromkeys(range(3), min(shots, 4))
    assert set(found.reporting) == set(full.val)
    assert not set(found.apart().reporting) & set(found.choosing)
    assert len(found.apart().reporting) == 27 - len(found.choosing)


def test_without_others_the_same_photos_are_reported_on() -> None:
    full = made([5, 5])
    _, found = validation_photos(full, sample(full, None, 1), None, 1, hashes(full), 0.2, False)
    assert len(found.choosing) == len(found.reporting) == len(found.apart().reporting) == 2


def test_no_more_than_are_needed_and_evenly() -> None:
    full = made([700, 900, 20])
    _, found = validation_photos(full, sample(full, 16, 1), 16, 1, hashes(full), 0.2, False)
    assert len(found.reporting) == MOST
    assert Counter(i.label for i in found.reporting) == {0: 498, 1: 498, 2: 4}


@pytest.mark.parametrize("part", ["train", "test"])
def test_copies_of_what_is_trained_or_tested_on_are_left_out(part: str) -> None:
    full = made([6, 6], val=3, split=True)
    few, known = sample(full, 2, 1), hashes(full)
    copied = (few.train if part == "train" else full.test)[0]
    known[full.val[0].path] = known[copied.path]
    _, found = validation_photos(full, few, 2, 1, known, 0.2, False)
    assert full.val[0] not in found.reporting + found.choosing
    assert len(found.reporting) == 5


def test_files_on_disk(tmp_path: Path) -> None:
    folder(tmp_path / "pets", {"cat": 10, "dog": 6})
    (tmp_path / "pets" / "cat" / "9.png").write_bytes((tmp_path / "pets" / "cat" / "0.png").read_bytes())
    full, report = check(load_dataset(tmp_path / "pets"), False)
    few = sample(full, 9, 1)
    kept, found = validation_photos(full, few, 9, 1, report.hashes, 0.2, published(tmp_path / "pets"))
    assert found.held_back == 1
    trained = {report.hashes[i.path] for i in kept.train}
    assert found.reporting and not trained & {report.hashes[i.path] for i in found.reporting}
