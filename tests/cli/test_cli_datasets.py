import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from data.catalogue_makers import make, publish_counts
from restore_vlm.cli.datasets import app
from restore_vlm.data.catalogue import DATASETS, load_catalogued
from restore_vlm.data.catalogue.loading import read_rows
from restore_vlm.errors import UserError


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def fails(match: str, *arguments: object) -> None:
    with pytest.raises(UserError, match=match):
        raise run(*arguments).exception or AssertionError("it passed")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two good datasets with published splits."""
    for name in ("dtd", "eurosat"):
        folder = make(name, tmp_path)
        rows = read_rows(DATASETS[name], folder, keep=False)
        (folder / DATASETS[name].split).write_text(json.dumps(rows))
        publish_counts(monkeypatch, name, rows)
    return tmp_path


def test_list(root: Path) -> None:
    plain = run()
    assert plain.exit_code == 0 and all(entry.folder in plain.output for entry in DATASETS.values())
    assert "1,281,167" in plain.output and "found" not in plain.output
    (root / "ucf101").mkdir()
    found = run("--root", root).output
    assert found.count("ready (split file)") == 2 and found.count("absent") == 12
    assert "incomplete (no UCF-101-midframes" in found
    fails("There is no folder", "--root", root / "absent")


def test_check(root: Path) -> None:
    good = run("check", root)
    assert (good.exit_code, good.stdout) == (0, "DTD: good, 18 images\nEuroSAT: good, 19 images\n")
    (root / "dtd/images/banded/image_0000.jpg").write_bytes(b"")
    (root / "dtd/images/banded/image_0001.jpg").unlink()
    bad = run("check", root)
    assert bad.exit_code == 2 and "DTD: 2 defect(s)" in bad.stdout and "EuroSAT: good" in bad.stdout
    assert "banded/image_0000.jpg) unusable (empty file)" in bad.stdout
    assert run("check", root, "--dataset", "EuroSAT").exit_code == 0
    quick = run("check", root, "--quick", "--dataset", "dtd")
    assert (
        quick.exit_code == 2 and "DTD: 1 defect(s)" in quick.stdout and "counted, not opened" in quick.stdout
    )
    absent = run("check", root, "--dataset", "ucf101")
    assert absent.exit_code == 2 and "there is no folder" in absent.stdout


def test_check_of_a_split_made_here(root: Path) -> None:
    split = root / "dtd" / DATASETS["dtd"].split
    split.unlink()
    assert run("check", root).exit_code == 2
    load_catalogued("dtd", root)
    again = run("check", root)
    assert again.exit_code == 0 and "(note)" in again.stdout


def test_bad_input(root: Path, tmp_path: Path) -> None:
    fails("There is no folder", "check", root / "absent")
    fails("None of the datasets is in", "check", root / "dtd")
    fails("did you mean 'dtd'", "check", root, "--dataset", "dtdd")
    fails("did you mean 'caltech101'", "fetch", "caltech1O1", "--root", root)
    fails("Give --root after check", "--root", root, "check", root)


def test_fetch_that_tells_how(tmp_path: Path) -> None:
    result = run("fetch", "stanford_cars", "--root", tmp_path)
    assert result.exit_code == 0
    steps = result.stdout.splitlines()
    assert steps[0] == "StanfordCars has to be fetched by hand:"
    assert steps[2].startswith(f"2. Unpack them so that {tmp_path / 'stanford_cars'} holds cars_train")
    assert "withdrawn by its publisher" in " ".join(result.stderr.split())


def test_fetch_how(tmp_path: Path) -> None:
    result = run("fetch", "dtd", "--root", tmp_path, "--how")
    assert result.exit_code == 0 and result.stdout.startswith("1. Unpack dtd-r1.0.1.tar.gz of https://www")
    assert list(tmp_path.iterdir()) == []


def test_fetch_what_is_there(root: Path) -> None:
    result = run("fetch", "dtd", "--root", root)
    assert result.exit_code == 0 and "images is there already" in " ".join(result.stderr.split())
    assert "Licence: research only. About 0.6 GB." in " ".join(result.stderr.split())
