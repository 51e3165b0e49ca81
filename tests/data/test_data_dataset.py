from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_vlm.data import Dataset, Item, select_classes
from restore_vlm.errors import UserError


def made(count: int, per_class: int = 2) -> Dataset:
    items = [Item(Path(f"{label}-{i}"), label) for i in range(per_class) for label in reversed(range(count))]
    return Dataset("toy", [f"class_{i}" for i in range(count)], items, items[::-1], items[:1], True)


@given(count=st.integers(2, 40))
def test_base_and_novel(count: int) -> None:
    dataset = made(count)
    base, novel = select_classes(dataset, "base"), select_classes(dataset, "novel")
    assert len(base.classes) == (count + 1) // 2
    assert base.classes + novel.classes == dataset.classes
    for part in (base, novel):
        assert {item.label for item in part.train} == set(range(len(part.classes)))
        assert all(
            item.path.name.split("-")[0] == part.classes[item.label][6:] for item in part.train + part.test
        )
    assert len(base.train) + len(novel.train) == len(dataset.train)
    assert not {item.path for item in base.train} & {item.path for item in novel.train}


@given(st.permutations(range(6)).flatmap(lambda p: st.integers(1, 6).map(lambda n: p[:n])))
def test_selection_by_name_keeps_the_given_order(labels: list[int]) -> None:
    dataset = made(6)
    part = select_classes(dataset, [dataset.classes[i] for i in labels])
    assert part.classes == [f"class_{i}" for i in labels]
    assert all(labels[item.label] == int(item.path.name.split("-")[0]) for item in part.train)


def test_selection_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("Class 3\n\nclass_1\n")
    part = select_classes(made(5), tmp_path / "some.txt")
    assert part.classes == ["class_3", "class_1"]
    assert select_classes(made(5), str(tmp_path / "some.txt")) == part
    assert select_classes(made(5), "all") == made(5)


def test_selection_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for which, match in [
        (["class_1", "klass_2"], "'klass_2'; did you mean 'class_2'"),
        (["class_1", "class 1"], "twice"),
        ([], "No class is named"),
        (tmp_path / "empty.txt", "No class is named in .*empty.txt"),
        ("bass", "neither 'all', 'base' nor 'novel'"),
    ]:
        with pytest.raises(UserError, match=match):
            select_classes(made(3), which)
    with pytest.raises(UserError, match="too few"):
        select_classes(made(1), "novel")
