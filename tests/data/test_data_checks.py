import shutil
from pathlib import Path

import pytest

from data.data_makers import folder
from restore_vlm.data import Dataset, check, load_dataset, same_content
from restore_vlm.errors import UserError


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder(tmp_path / "train", {"a": 3, "b": 3})
    folder(tmp_path / "val", {"a": 1})
    folder(tmp_path / "test", {"a": 2, "b": 2})
    return load_dataset(tmp_path)


def test_all_good(dataset: Dataset) -> None:
    done: list[int] = []
    good, report = check(dataset, skip_bad=False, progress=done.append)
    assert good == dataset and report.bad == {} and same_content(good, report.hashes) == []
    assert len(report.hashes) == 11 and done == list(range(1, 12))


def test_bad_images_are_named(dataset: Dataset) -> None:
    dataset.train[0].path.write_bytes(b"")
    dataset.test[3].path.write_text("hello")
    with pytest.raises(
        UserError, match=r"^2 of 11 .*a/0.png \(empty file\), .*b/1.png \(not an image\).*--skip-bad-images"
    ):
        check(dataset, skip_bad=False)


def test_at_most_ten_are_named(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path / "x", {"a": 7, "b": 7}))
    for item in dataset.train:
        item.path.write_bytes(b"")
    with pytest.raises(UserError, match=r"14 of 14.* and 4 more;") as caught:
        check(dataset, skip_bad=False)
    assert str(caught.value).count("empty file") == 10


def test_bad_images_are_skipped(dataset: Dataset) -> None:
    for item in (dataset.train[0], dataset.val[0], dataset.test[3]):
        item.path.write_bytes(b"")
    good, report = check(dataset, skip_bad=True)
    assert good.train == dataset.train[1:] and good.val == [] and good.test == dataset.test[:3]
    assert set(report.bad.values()) == {"empty file"} and len(report.hashes) == 8


def test_class_without_images_left(dataset: Dataset) -> None:
    for item in dataset.train[3:]:
        item.path.write_bytes(b"")
    with pytest.raises(UserError, match="no training image is left of 'b'"):
        check(dataset, skip_bad=True)


def test_shared_images(dataset: Dataset) -> None:
    for item in (dataset.train[1], dataset.test[2]):
        shutil.copy(dataset.train[0].path, item.path)
    _, report = check(dataset, skip_bad=False)
    assert same_content(dataset, report.hashes) == [
        (item.path, dataset.test[2].path) for item in dataset.train[:2]
    ]
