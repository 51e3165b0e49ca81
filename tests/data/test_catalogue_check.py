"""``check_dataset`` on the real Caltech101: it passes, and each planted defect is told."""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from restore_vlm.data.catalogue import DATASETS, check_dataset, load_catalogued
from restore_vlm.data.catalogue.loading import read_rows
from restore_vlm.errors import UserError

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("RESTORE_VLM_SHARED", ROOT.parent / "shared"))
SPLIT = "split_zhou_Caltech101.json"
IMAGES = "101_ObjectCategories"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = [p for p in (SHARED / "caltech-101.zip", SHARED / "data/caltech-101.zip") if p.is_file()]
    if not found:
        pytest.skip(f"no caltech-101.zip in {SHARED}; set RESTORE_VLM_SHARED to the folder that holds it")
    root = tmp_path_factory.mktemp("caltech")
    with zipfile.ZipFile(found[0]) as archive:
        archive.extractall(root)
    return root


@pytest.fixture
def caltech(published: Path, tmp_path: Path) -> Path:
    """A root with a copy of Caltech101 to be damaged; images are hard links, so replace, never write."""
    shutil.copytree(published / "caltech-101", tmp_path / "caltech-101", copy_function=os.link)
    split = tmp_path / "caltech-101" / SPLIT
    text = split.read_text()
    split.unlink()
    split.write_text(text)
    return tmp_path


def test_real_copy_is_good(published: Path) -> None:
    seen: list[tuple[int, int]] = []
    checked = check_dataset("caltech101", published, progress=lambda done, total: seen.append((done, total)))
    assert (checked.defects, checked.notes, checked.images) == ([], [], 8242)
    assert seen[-1] == (8242, 8242)
    dataset = load_catalogued("caltech101", published)
    assert (len(dataset.classes), dataset.classes[:2]) == (100, ["face", "leopard"])


def test_procedure_gives_the_published_sizes(caltech: Path) -> None:
    entry, folder = DATASETS["caltech101"], caltech / "caltech-101"
    given = read_rows(entry, folder, keep=False)
    (folder / SPLIT).unlink()
    made = read_rows(entry, folder, keep=True)
    assert {part: len(rows) for part, rows in made.items()} == {"train": 4128, "val": 1649, "test": 2465}
    assert {row[1:] for row in made["test"]} == {row[1:] for row in given["test"]}
    assert sorted(row[0] for rows in made.values() for row in rows) == sorted(
        row[0] for rows in given.values() for row in rows
    )
    checked = check_dataset("caltech101", caltech, decode=False)
    assert checked.defects == [] and "made here" in checked.notes[0]


def write(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        split = json.loads((folder / SPLIT).read_text())
        split.pop("sha256", None)
        change(split)
        (folder / SPLIT).write_text(json.dumps(split))

    return plant


def rename(split: dict[str, Any]) -> None:
    for part in split.values():
        part[:] = [[path, label, "plane" if name == "airplane" else name] for path, label, name in part]


def truncate(folder: Path) -> None:
    image = folder / IMAGES / "ant/image_0001.jpg"
    write(image, image.read_bytes()[:700])


def empty_class(folder: Path) -> None:
    (folder / IMAGES / "axolotl").mkdir()


DEFECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing image": (
        lambda f: (f / IMAGES / "ant/image_0002.jpg").unlink(),
        r"1 image \(101_ObjectCategories/ant/image_0002.jpg\) missing; replace them, or get it .* --again",
    ),
    "truncated image": (truncate, r"1 image \(.*ant/image_0001.jpg\) unusable \(truncated"),
    "zero-byte image": (
        lambda f: write(f / IMAGES / "ant/image_0003.jpg", b""),
        r"1 image \(.*ant/image_0003.jpg\) unusable \(empty file\)",
    ),
    "not an image": (
        lambda f: write(f / IMAGES / "ant/image_0004.jpg", b"<html>"),
        r"ant/image_0004.jpg\) unusable \(not an image\)",
    ),
    "wrong count": (
        edit(lambda s: s["val"].pop()),
        "1648 val images rather than the published 1649; put the published split there",
    ),
    "split that is no JSON": (
        lambda f: (f / SPLIT).write_text('{"train": [["a'),
        f"{SPLIT} is not JSON .*; download the split file again",
    ),
    "split entry malformed": (
        edit(lambda s: s["test"].__setitem__(3, ["ant/image_0001.jpg", "ant"])),
        r"entry 3 of 'test' is not \[path, label, class name\]",
    ),
    "label inconsistent": (
        edit(lambda s: s["test"][0].__setitem__(1, 7)),
        "label 7 is both '.*' and 'face'; give it one name",
    ),
    "class name mismatch": (edit(rename), "other class names than its paths say: 'plane' for 'airplane'"),
    "missing split": (
        lambda f: (f / SPLIT).unlink(),
        f"no {SPLIT}, and one made at .*; put the published split into .*https://",
    ),
    "path that leaves the folder": (
        edit(lambda s: s["train"][5].__setitem__(0, "../../secret.jpg")),
        "entry 5 of 'train', '../../secret.jpg', leads out of the folder of images",
    ),
    "empty class folder": (empty_class, r"1 class folder \(.*axolotl\) without images"),
    "image in two parts": (
        edit(lambda s: s["test"].__setitem__(0, s["train"][0])),
        r"lists 1 image \(Faces/image_0274.jpg\) twice",
    ),
    "no folder of images": (
        lambda f: shutil.rmtree(f / IMAGES),
        f"there is no {IMAGES} in .*; get it with: restore-vlm datasets fetch caltech101 --root",
    ),
    "class gone": (
        edit(
            lambda s: [part.__setitem__(slice(None), [r for r in part if r[1] != 99]) for part in s.values()]
        ),
        "99 classes rather than the published 100",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_is_told(caltech: Path, defect: str) -> None:
    plant, match = DEFECTS[defect]
    folder = caltech / "caltech-101"
    plant(folder)
    decode = any(word in defect for word in ("truncated", "zero", "not an image"))
    defects = check_dataset("caltech101", caltech, decode=decode).defects
    assert any(re.search(match, sentence) for sentence in defects), defects
    assert all("\n" not in sentence and re.search(r"\.$|https://\S+$", sentence) for sentence in defects)


def test_defects_are_told_together(caltech: Path) -> None:
    for defect in ("missing image", "wrong count", "class name mismatch", "empty class folder"):
        DEFECTS[defect][0](caltech / "caltech-101")
    defects = check_dataset("caltech101", caltech, decode=False).defects
    for word in ("missing", "rather than", "class names", "without images"):
        assert any(word in sentence for sentence in defects), word


def test_absent(tmp_path: Path) -> None:
    assert "there is no folder" in check_dataset("dtd", tmp_path).defects[0]
    with pytest.raises(UserError, match="There is no folder"):
        check_dataset("dtd", tmp_path / "absent")
    with pytest.raises(UserError, match="Unknown dataset"):
        check_dataset("nothing like it", tmp_path)
