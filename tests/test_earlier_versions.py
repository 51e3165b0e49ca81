"""Files that version 0.1.0 wrote, which had no checksums, in ``fixtures/version-0.1.0``."""

import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from restore_vlm.bench import Results, Store, render, tables
from restore_vlm.classifier import Classifier
from restore_vlm.figures import read_records
from restore_vlm.runtime.tensors import read_tensors
from restore_vlm.training import RunFolder

FIXTURES = Path(__file__).parent / "fixtures" / "version-0.1.0"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they were written: the photos are where the run looks for them."""
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    demo = Path(str(files("restore_vlm") / "assets" / "demo"))
    for part in ("train", "test"):
        for folder in sorted((demo / part).iterdir())[:2]:
            (tmp_path / "data" / "photos" / part / folder.name).mkdir(parents=True)
            for photo in sorted(folder.iterdir())[:3]:
                shutil.copy(photo, tmp_path / "data" / "photos" / part / folder.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run(place: Path) -> None:
    folder = RunFolder(place / "run")
    assert folder.read_config()["run"]["shots"] == 2
    assert folder.read_environment()["packages"]["restore-vlm"] == "0.1.0"
    assert len(folder.read_images()) == 4
    assert [line["step"] for line in folder.read_metrics()] == [1, 2, 3, 4]
    assert [line["epoch"] for line in folder.read_shift()] == [0, 1, 2]
    assert folder.read_checkpoint()[1]["step"] == 4
    (record,) = read_records([place / "run"])
    assert record.shift and record.result["images"] == 6


def test_its_adapter_gives_the_same_numbers(place: Path) -> None:
    (record,) = read_records([place / "run"])
    assert Classifier.load("run").evaluate("data/photos").accuracy == record.result["accuracy"]


def test_a_grid(place: Path) -> None:
    store = Store(place / "grid")
    ((conditions, keys),) = store.grids()
    assert [key.method for key in keys] == ["clip", "lpt"]
    assert "66.67" in render(tables(conditions, Results(keys, store)), "markdown")
    assert all(record.shift for record in read_records([place / "grid"]))
    assert store.run(keys[1].run).training_seconds() > 0
    (cache,) = (place / "grid" / "cache").iterdir()
    assert read_tensors(cache)[0]["features"].shape[0] == 6
