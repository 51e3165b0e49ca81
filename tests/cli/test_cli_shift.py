import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from restore_vlm import Classifier, UserError, cli, fit
from restore_vlm.figures import read_records
from restore_vlm.measure.shift import CONDITIONED, Alignment, Shift, Spread
from restore_vlm.runtime.files import read_json
from restore_vlm.training import training_images

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
    direct = classifier.shift([i.path for i in items], names, [i.label for i in items])
    assert found["total_discrepancy"] == pytest.approx(direct.total_discrepancy, rel=1e-6)
    assert found["by_class"] == pytest.approx(direct.by_class, rel=1e-6)
    saved = read_json(runs["ivlp"] / "shift-all.json", dict, "")
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


def test_one_frozen_pass_serves_runs_of_other_templates(
    runs: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    fit(photos, "ivlp", shots=2, settings=(*SHORT, "template=art of {}."), out=other, precision="fp32")
    every = [runs["ivlp"], other, runs["cocoop"]]
    together = json.loads(shift(*every, "--data", photos, "--json"))
    assert list(together) == [str(run) for run in every]
    for run in every:
        assert json.loads(shift(run, "--data", photos, "--json"))[str(run)] == together[str(run)]


def test_what_any_run_was_trained_on_is_left_out(runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    fit(photos, "ivlp", shots=2, seed=2, settings=SHORT, out=other, precision="fp32")
    classifier = Classifier.load(runs["ivlp"])
    trained = training_images(runs["ivlp"]).keys() | training_images(other).keys()
    items, names = classifier.to_test(photos, others=[other])
    assert len(trained) > 8 and len(items) + len(trained) == 24
    assert not trained & {str(item.path) for item in items}
    found = json.loads(shift(runs["ivlp"], other, "--data", photos, "--json"))
    direct = classifier.shift([i.path for i in items], names, [i.label for i in items])
    assert found[str(runs["ivlp"])]["total_discrepancy"] == pytest.approx(direct.total_discrepancy, rel=1e-6)


def test_one_class_or_image(runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    names = tmp_path / "one.txt"
    names.write_text(Classifier.load(runs["ivlp"]).classes[0])
    arguments = ["shift", runs["ivlp"], "--data", photos, "--classes", names, "--images", "1", "--json"]
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    said = " ".join(result.stderr.split())
    assert "With one class there are no quartiles over classes" in said
    assert "With one image there are no quartiles over images" in said
    found = json.loads(result.stdout)[str(runs["ivlp"])]
    assert len(found["by_class"]) == 1 and found["total_discrepancy"] > 0
    assert (runs["ivlp"] / "shift-one.json").is_file()


def test_unreadable_images(runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    next((tmp_path / "photos").iterdir()).joinpath("broken.jpg").write_bytes(b"no photo")
    with pytest.raises(UserError, match="--skip-bad-images"):
        shift(runs["ivlp"], "--data", tmp_path / "photos")
    shift(runs["ivlp"], "--data", tmp_path / "photos", "--skip-bad-images")


def test_the_file_cannot_be_written(runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    shutil.copytree(runs["clip"], tmp_path / "run")
    (tmp_path / "run" / "shift-novel.json").mkdir()
    with pytest.raises(UserError, match=r"Cannot write .*shift-novel\.json"):
        shift(tmp_path / "run", "--data", photos, "--classes", "novel")


def test_nothing_is_left_to_measure_on(photos: Path, tmp_path: Path) -> None:
    fit(photos, "clip", shots=None, out=tmp_path / "all", validation=None)
    fit(photos, "ivlp", shots=None, settings=SHORT, out=tmp_path / "run", validation=None)
    with pytest.raises(UserError, match="no image that was not trained on"):
        shift(tmp_path / "run", "--data", photos)


def test_no_test_image_of_those_classes(runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    data, classes = tmp_path / "data", sorted(path.name for path in photos.iterdir())
    shutil.copytree(photos, data / "train")
    (data / "test" / classes[0]).mkdir(parents=True)
    shutil.copy(next((photos / classes[0]).iterdir()), data / "test" / classes[0])
    with pytest.raises(UserError, match="nothing to test on in data"):
        shift(runs["ivlp"], "--data", data, "--classes", "novel")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--data", "PHOTOS", "--classes", "nowhere.txt"], "no such file"),
    ],
)
def test_no_data_or_classes(runs: dict[str, Path], photos: Path, options: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        shift(runs["ivlp"], *[str(photos) if o == "PHOTOS" else o for o in options])


def test_no_run(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is it a finished run"):
        shift(tmp_path, "--data", photos)


def test_other_backbones_are_refused(runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(str(files("restore_vlm") / "assets" / "tiny-clip"), copied)
    fit(photos, "clip", backbone=str(copied), shots=2, out=tmp_path / "run")
    with pytest.raises(UserError, match=rf"different backbones \(tiny, {re.escape(str(copied))}\)"):
        shift(runs["ivlp"], tmp_path / "run", "--data", photos)


def test_the_classes_of_a_model_stay(runs: dict[str, Path], photos: Path) -> None:
    classifier = Classifier.load(runs["ivlp"])
    items, names = classifier.to_test(photos)
    classifier.shift([items[0].path], ["something else"])
    assert classifier.model.classnames == names


def test_features_of_every_image_are_compared_a_few_at_a_time() -> None:
    tuned = torch.randn(2 * CONDITIONED + 5, 3, 8, dtype=torch.double)
    frozen = torch.randn(3, 8, dtype=torch.double)
    found = Shift.between(tuned, frozen)
    distance = (tuned - frozen).norm(dim=-1)
    assert found.absolute == Spread.of(distance.flatten())
    assert found.relative.median == pytest.approx((distance / frozen.norm(dim=-1)).quantile(0.5).item())
    cosine = torch.cosine_similarity(tuned, frozen.expand_as(tuned), dim=-1)
    assert found.cosine.mean == pytest.approx(cosine.mean().item(), abs=1e-6)
    images, labels = torch.randn(len(tuned), 8, dtype=torch.double), torch.arange(len(tuned)) % 3
    aligned = Alignment.of(images, tuned, labels)
    own = torch.stack([text[label] for text, label in zip(tuned, labels, strict=True)])
    assert aligned.matching == pytest.approx((images * own).sum(-1).mean().item(), abs=1e-5)
    assert aligned.gap == pytest.approx((images.mean(0) - tuned.mean((0, 1))).norm().item(), abs=1e-5)


def test_a_tower_without_blocks(
    photos: Path, resnet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from restore_vlm import terminal

    monkeypatch.setattr(terminal.out, "_width", 160)
    fit(photos, "clip_adapter", resnet, shots=2, settings=SHORT, out=tmp_path, precision="fp32")
    text = shift(tmp_path, "--data", photos)
    assert "A tower that shows no blocks is measured at its final features alone." in text
    (feature,) = re.findall(r"feature .*", text)
    assert re.findall(r"\d\.\d{3} to \d\.\d{3}", feature)[1] != "0.000 to 0.000"
    assert json.loads((tmp_path / "shift-all.json").read_text())["total_discrepancy"] is None
