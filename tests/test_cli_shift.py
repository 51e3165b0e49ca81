import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from restore_vlm import Classifier, UserError, cli, fit
from restore_vlm.data import load_dataset
from restore_vlm.shift import measure
from restore_vlm.study import read_records

SHORT = ("training.epochs=1", "training.batch=4")


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for method, settings in (("ivlp", SHORT), ("cocoop", SHORT), ("clip", ())):
        fit(photos, method, shots=2, seed=1, settings=settings, out=folder / method, precision="fp32")
    return {path.name: path for path in folder.iterdir()}


def shift(*args: object) -> str:
    result = CliRunner().invoke(cli.app, ["shift", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_numbers_are_those_of_the_function(runs: dict[str, Path], photos: Path) -> None:
    found = json.loads(shift(runs["ivlp"], "--data", photos, "--json"))[str(runs["ivlp"])]
    classifier = Classifier.load(runs["ivlp"])
    items, names = classifier.to_test(photos)
    direct = measure(classifier, [i.path for i in items], names, [i.label for i in items])
    assert found["total_discrepancy"] == pytest.approx(direct.total_discrepancy, rel=1e-6)
    assert found["by_class"] == pytest.approx(direct.by_class, rel=1e-6)
    saved = json.loads((runs["ivlp"] / "shift-all.json").read_text())
    assert saved == {"data": str(photos), **found}


def test_tables(runs: dict[str, Path], photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from restore_vlm import terminal

    monkeypatch.setattr(terminal.out, "_width", 160)
    one = shift(runs["ivlp"], "--data", photos, "--images", 5)
    assert "By block" in one and "discrepancy" in one
    both = shift(runs["ivlp"], runs["cocoop"], runs["clip"], "--data", photos)
    assert "By block" not in both
    frozen = json.loads((runs["clip"] / "shift-all.json").read_text())
    assert frozen["total_discrepancy"] == 0 and frozen["before"] == frozen["after"]


def test_records_have_it(runs: dict[str, Path], photos: Path) -> None:
    CliRunner().invoke(cli.app, ["evaluate", str(runs["ivlp"]), "--data", str(photos)])
    shift(runs["ivlp"], "--data", photos)
    (record,) = read_records([runs["ivlp"]])
    assert (record.method, record.part, record.seed, record.shots) == ("ivlp", "all", 1, 2)
    assert record.shift is not None and record.shift["total_discrepancy"] > 0
    assert record.accuracy == 100 * record.result["accuracy"]


def test_nothing_is_left_to_measure_on(photos: Path, tmp_path: Path) -> None:
    fit(photos, "clip", shots=None, out=tmp_path / "all")
    fit(photos, "ivlp", shots=None, settings=SHORT, out=tmp_path / "run")
    with pytest.raises(UserError, match="no image that was not trained on"):
        shift(tmp_path / "run", "--data", photos)


def test_no_run(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is it a finished run"):
        shift(tmp_path, "--data", photos)


def test_other_backbones_are_refused(runs: dict[str, Path], photos: Path) -> None:
    from restore_vlm.cli_shift import measure_runs

    a, b = Classifier.load(runs["ivlp"]), Classifier.load(runs["clip"])
    b.header = {**b.header, "backbone": "another"}
    with pytest.raises(UserError, match=r"different backbones \(tiny, another\)"):
        measure_runs([a, b], str(load_dataset(photos).name), "all", 8)
