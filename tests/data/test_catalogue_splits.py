"""The split procedures against a direct restatement of the published ones, and their properties."""

import errno
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.catalogue_makers import MAKERS, make
from restore_vlm.data.benchmark import Row, Rows, read_split
from restore_vlm.data.catalogue import DATASETS, load_catalogued
from restore_vlm.data.catalogue.loading import made_here, read_rows
from restore_vlm.data.catalogue.splits import three_way, two_way, write_split
from restore_vlm.errors import UserError

PARTS = ("train", "val", "test")


def published_three_way(folder: Path, ignored: tuple[str, ...], renamed: dict[str, str]) -> Rows:
    """What CoOp computes for a folder of class folders, given a listing in order of name."""
    random.seed(1)
    rows: Rows = {part: [] for part in PARTS}
    visible = [f.name for f in folder.iterdir() if f.name[0] != "." and f.name not in ignored]
    for label, name in enumerate(sorted(visible)):
        files = sorted(f.name for f in (folder / name).iterdir() if f.name[0] != ".")
        random.shuffle(files)
        n, here = len(files), {"train": 0, "val": 0, "test": 0}
        here["train"], here["val"] = round(n * 0.5), round(n * 0.2)
        here["test"] = n - here["train"] - here["val"]
        for part in PARTS:
            for _ in range(here[part]):
                rows[part].append((f"{name}/{files.pop(0)}", label, renamed.get(name, name)))
    return rows


def published_two_way(trainval: list[Row]) -> tuple[list[Row], list[Row]]:
    """What CoOp computes for a training list: it shuffles positions, class by class."""
    random.seed(1)
    positions: dict[int, list[int]] = {}
    for position, row in enumerate(trainval):
        positions[row[1]] = [*positions.get(row[1], []), position]
    train, val = [], []
    for mine in positions.values():
        random.shuffle(mine)
        for rank, position in enumerate(mine):
            (val if rank < round(len(mine) * 0.2) else train).append(trainval[position])
    return train, val


@pytest.mark.parametrize("name", ["caltech101", "food101", "dtd", "eurosat"])
def test_three_way_is_the_published_one(tmp_path: Path, name: str) -> None:
    folder, entry = make(name, tmp_path), DATASETS[name]
    expected = published_three_way(folder / entry.images, entry.ignore, dict(entry.rename))
    assert read_rows(entry, folder, keep=True) == expected
    assert read_split(folder / entry.split) == expected


@given(st.lists(st.integers(5, 60), min_size=1, max_size=5))
def test_three_way_sizes(counts: list[int]) -> None:
    groups = [(i, f"c{i}", [f"c{i}/{j}" for j in range(n)]) for i, n in enumerate(counts)]
    rows = three_way(groups)
    sizes = {part: Counter(label for _, label, _ in rows[part]) for part in PARTS}
    for label, n in enumerate(counts):
        assert sizes["train"][label] == round(n * 0.5)
        assert sizes["val"][label] == round(n * 0.2)
    everything = [path for part in PARTS for path, _, _ in rows[part]]
    assert sorted(everything) == sorted(path for _, _, paths in groups for path in paths)
    assert rows == three_way(groups)
    assert all([row[1] for row in rows[part]] == sorted(row[1] for row in rows[part]) for part in PARTS)


@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(3, 20))
def test_two_way_is_the_published_one(order: list[str], least: int) -> None:
    order += [c for c in "abc" for _ in range(least)]
    trainval = [(f"{c}/{i}", "abc".index(c), c) for i, c in enumerate(order)]
    test = [("a/t", 0, "a")]
    rows = two_way(trainval, test)
    assert (rows["train"], rows["val"]) == published_two_way(trainval)
    assert rows["test"] == test
    assert sorted(rows["train"] + rows["val"]) == sorted(trainval)


@pytest.mark.parametrize("n", range(1, 5))
def test_too_few_for_three_parts(n: int) -> None:
    parts = round(n * 0.5), round(n * 0.2)
    if 0 in (*parts, n - sum(parts)):
        with pytest.raises(UserError, match=f"'cat' has {n} images, too few"):
            three_way([(0, "cat", [str(i) for i in range(n)])])
    else:
        three_way([(0, "cat", [str(i) for i in range(n)])])


def test_too_few_for_two_parts() -> None:
    with pytest.raises(UserError, match="'cat' has 2 training images, too few"):
        two_way([("a", 0, "cat"), ("b", 0, "cat")], [])


@pytest.mark.parametrize("name", [n for n in MAKERS if DATASETS[n].split])
def test_split_file(tmp_path: Path, name: str) -> None:
    folder, entry = make(name, tmp_path), DATASETS[name]
    rows = read_rows(entry, folder, keep=True)
    file = folder / entry.split
    assert read_split(file) == rows == read_rows(entry, folder, keep=False)
    text = file.read_text()
    assert made_here(file) and text.startswith('{\n    "train": [\n        [\n            "')
    assert json.loads(text)["note"].startswith("made by restore-vlm with the published procedure, seed 1")
    file.write_text(json.dumps(rows))
    assert not made_here(file)
    assert [f.name for f in folder.iterdir() if "part" in f.name] == []


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    make("dtd", tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"Cannot write .*Textures.json: No space left.*make room"):
        load_catalogued("dtd", tmp_path)
    assert [f.name for f in (tmp_path / "dtd").iterdir()] == ["images"]


def test_folder_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("dtd", tmp_path)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        patch.setattr(os, "access", lambda *_: False)
        before = load_catalogued("dtd", tmp_path)
    assert [f.name for f in folder.iterdir()] == ["images"]
    assert load_catalogued("dtd", tmp_path).train == before.train


def test_write_is_complete_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    file.write_text("before")
    with pytest.raises(TypeError):
        write_split(file, {"train": [object()], "val": [], "test": []})  # type: ignore[list-item]
    assert file.read_text() == "before"
