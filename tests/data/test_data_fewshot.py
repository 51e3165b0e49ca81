import hashlib
import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_vlm.data import Dataset, Item, load_dataset, sample, select_classes, short_classes
from restore_vlm.errors import UserError

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads((ROOT / "tests/conformance/fewshot.json").read_text())["Caltech101"]
SHARED = Path(os.environ.get("RESTORE_VLM_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def caltech(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    found = [p for p in (SHARED / "caltech-101.zip", SHARED / "data/caltech-101.zip") if p.is_file()]
    if not found:
        pytest.skip(f"no caltech-101.zip in {SHARED}; set RESTORE_VLM_SHARED to the folder that holds it")
    folder = tmp_path_factory.mktemp("caltech")
    with zipfile.ZipFile(found[0]) as archive:
        archive.extractall(folder)
    return load_dataset(folder / "caltech-101")


def digest(items: list[Item]) -> str:
    paths = "\n".join("/".join(item.path.parts[-2:]) for item in items)
    return hashlib.sha256(paths.encode()).hexdigest()


@pytest.mark.parametrize("case", PUBLISHED["samples"])
def test_published_samples(caltech: Dataset, case: str) -> None:
    shots, seed = (int(part.split("=")[1]) for part in case.split())
    expected, drawn = PUBLISHED["samples"][case], sample(caltech, shots, seed)
    assert "/".join(drawn.train[0].path.parts[-2:]) == expected["train_first"]
    assert (len(drawn.train), digest(drawn.train)) == (expected["train_n"], expected["train"])
    assert (len(drawn.val), digest(drawn.val)) == (expected["val_n"], expected["val"])
    assert drawn.test == caltech.test


def test_published_classes(caltech: Dataset) -> None:
    assert {part: len(getattr(caltech, part)) for part in ("train", "val", "test")} == PUBLISHED["sizes"]
    base, novel = select_classes(caltech, "base"), select_classes(caltech, "novel")
    assert (len(caltech.classes), len(base.classes)) == (PUBLISHED["classes"], PUBLISHED["base"])
    assert [base.classes[0], base.classes[-1]] == [PUBLISHED["first_base"], PUBLISHED["last_base"]]
    assert [novel.classes[0], novel.classes[-1]] == [PUBLISHED["first_novel"], PUBLISHED["last_novel"]]
    assert len(base.test) == PUBLISHED["test_base"]
    assert len(base.test) + len(novel.test) == PUBLISHED["sizes"]["test"]


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
