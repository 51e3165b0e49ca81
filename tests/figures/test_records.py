"""Finished runs as records, from grids and from run folders."""

import json
import shutil
from pathlib import Path

import pytest

from restore_vlm import UserError, fit
from restore_vlm.figures import read_records
from restore_vlm.figures.numbers import halves
from restore_vlm.runtime.files import write_toml
from restore_vlm.training import RunFolder, write_json


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder tested on both halves, as restore-vlm train and evaluate leave it."""
    folder = tmp_path_factory.mktemp("runs") / "vpt"
    classifier = fit(
        root / "split", "vpt", shots=2, classes="base", settings=("training.epochs=1",), out=folder
    )
    for part in ("base", "novel"):
        found = classifier.evaluate(root / "split", part).as_json()
        write_json(folder / f"evaluation-{part}.json", {"data": str(root / "split"), **found})
    return folder


def test_a_grid(grid: Path) -> None:
    records = read_records([grid])
    assert {r.protocol for r in records} == {"base-to-novel"}
    assert {r.backbone for r in records} == {"tiny"}
    assert (
        len({(r.method, r.settings, r.dataset, r.part) for r in records})
        == len(records)
        == (8 + 5 + 2) * 2 * 2
    )
    assert all(r.folder is None for r in records if r.method == "clip")
    (one,) = [r for r in records if (r.method, r.dataset, r.part) == ("vpt", "split", "novel")]
    assert one.folder and (one.folder / "adapter.safetensors").is_file()
    found = json.loads(next((one.folder.parent / "tests").iterdir()).read_text())
    assert one.shift and found["shift"].keys() == one.shift.keys()


def test_a_run_folder(trained: Path) -> None:
    base, novel = read_records([trained])
    assert (base.part, novel.part) == ("base", "novel")
    assert (base.method, base.source, base.dataset, base.shots, base.seed) == ("vpt", "split", "split", 2, 1)
    assert base.settings == ("training.epochs=1",) and base.shift is None and base.folder == trained
    assert {r.method for r in halves([base, novel])} == {"vpt (training.epochs=1)"}


def test_runs_beside_a_grid(grid: Path, trained: Path) -> None:
    both = read_records([grid, trained])
    assert len(both) == len(read_records([grid])) + 2
    assert {"vpt", "vpt (training.epochs=1)"} <= {r.method for r in halves(both)}


def test_different_backbones(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    config = RunFolder(other).read_config()
    config["run"]["backbone"] = "ViT-B-16:openai"
    write_toml(other / "config.toml", config)
    with pytest.raises(UserError, match=r"different backbones \(tiny, ViT-B-16:openai\)"):
        read_records([trained, other])


def test_not_tested(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for evaluation in (tmp_path / "run").glob("evaluation-*.json"):
        evaluation.write_text("{")
        with pytest.raises(UserError, match="is damaged"):
            read_records([tmp_path / "run"])
        evaluation.unlink()
    with pytest.raises(UserError, match="run restore-vlm evaluate"):
        read_records([tmp_path / "run"])


def test_a_damaged_evaluation(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    path = copy / "evaluation-novel.json"
    content = json.loads(path.read_text())
    for changed, reason in (
        ({k: v for k, v in content.items() if k not in ("data", "sha256")}, "'data' is missing"),
        (content | {"accuracy": content["accuracy"] + 0.01}, "its checksum does not fit"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=rf"evaluation-novel\.json is damaged \({reason}\); the same"):
            read_records([copy])
