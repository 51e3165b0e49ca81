import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest

from restore_vlm.data import Dataset, Item, load_dataset, sample, select_classes

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads(Path(__file__).with_name("fewshot.json").read_text())["Caltech101"]
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
