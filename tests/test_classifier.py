from pathlib import Path

import pytest
from PIL import Image

import restore_vlm
from restore_vlm import Classifier, UserError, fit
from restore_vlm.classifier import Prediction
from restore_vlm.training import read_tensors, write_tensors

SHORT = ("training.epochs=2", "training.batch=4")


@pytest.fixture(scope="module")
def run_folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "run"
    fit(photos, "restore", shots=2, settings=SHORT, precision="fp32", classes="base", out=folder)
    return folder


@pytest.fixture(scope="module")
def some(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.webp"))[::5]


def test_loaded_it_predicts_the_same(photos: Path, some: list[Path], tmp_path: Path) -> None:
    fitted = fit(photos, "maple", shots=2, settings=SHORT, precision="fp32")
    fitted.save(tmp_path)
    loaded = Classifier.load(tmp_path)
    assert loaded.classes == sorted(p.name for p in photos.iterdir())
    assert loaded.predict(some) == fitted.predict(some)


def test_predictions_are_ranked_and_sum_to_one(run_folder: Path, some: list[Path]) -> None:
    for prediction in Classifier.load(run_folder).predict(some):
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)
        assert prediction.probabilities == sorted(prediction.probabilities, reverse=True)
        assert prediction.label == prediction.classes[0]


def test_new_classes_one_photo_and_pil(run_folder: Path, some: list[Path]) -> None:
    classifier = Classifier.load(run_folder)
    names = ["red panda", "tabby", "school bus"]
    (by_path,) = classifier.predict(some[0], classes=names, top=2)
    (by_image,) = classifier.predict(Image.open(some[0]), classes=names, top=2)
    assert set(by_path.classes) < set(names)
    assert by_path == by_image
    assert set(classifier.predict(some[0])[0].classes) == set(classifier.classes)


def test_evaluate_leaves_out_what_it_was_trained_on(run_folder: Path, photos: Path) -> None:
    classifier = Classifier.load(run_folder)
    assert classifier.evaluate(photos, "base").images == 2 * (6 - 2)
    assert classifier.evaluate(photos, "novel").images == 2 * 6
    everything = classifier.evaluate(photos)
    assert everything.images == 4 * 6 - 2 * 2
    assert len(everything.per_class) == 4


def test_nothing_left_to_test_on(photos: Path, tmp_path: Path) -> None:
    fit(photos, "clip", shots=6, out=tmp_path / "run", validation=None)
    with pytest.raises(UserError, match="nothing to test on"):
        Classifier.load(tmp_path / "run").evaluate(photos)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [(["cat", "cat"], "named twice"), ([], "at least one class"), (["cat", " "], "none of them empty")],
)
def test_class_lists_that_make_no_sense(run_folder: Path, some: list[Path], classes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Classifier.load(run_folder).predict(some[0], classes=classes)


def test_photos_that_cannot_be_read(run_folder: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(run_folder)
    with pytest.raises(UserError, match=r"absent\.jpg cannot be"):
        classifier.predict(tmp_path / "absent.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.jpg cannot be read"):
        classifier.predict(tmp_path / "empty.jpg")


def test_a_run_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finished run"):
        Classifier.load(tmp_path)


def test_headers_that_do_not_fit(run_folder: Path, tmp_path: Path) -> None:
    tensors, header = read_tensors(run_folder / "adapter.safetensors")
    path = tmp_path / "adapter.safetensors"
    write_tensors(path, tensors, {**header, "format": 99})
    with pytest.raises(UserError, match="upgrade"):
        Classifier.load(tmp_path)
    write_tensors(path, tensors, {k: v for k, v in header.items() if k != "method"})
    with pytest.raises(UserError, match="damaged"):
        Classifier.load(tmp_path)
    write_tensors(path, dict(list(tensors.items())[1:]), header)
    with pytest.raises(UserError, match="does not fit the backbone tiny"):
        Classifier.load(tmp_path)


def test_fit_says_what_is_wrong_with_an_option(photos: Path) -> None:
    with pytest.raises(UserError, match="precision"):
        fit(photos, precision="fp8")
    with pytest.raises(UserError, match="did you mean 'restore'"):
        fit(photos, "restor")
    with pytest.raises(UserError, match="did you mean"):
        fit(photos, backbone="ViT-B-61:openai")


def test_api_surface() -> None:
    assert sorted(restore_vlm.__all__) == ["Classifier", "Evaluation", "Prediction", "UserError", "fit"]
    for name in restore_vlm.__all__:
        assert getattr(restore_vlm, name).__doc__
    public = {n for n in vars(Classifier) if not n.startswith("_")}
    assert public == {
        "predict", "evaluate", "shift", "compare_shift", "batches", "to_test", "save", "load",
    }  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute"):
        restore_vlm.Clasifier  # noqa: B018


@pytest.fixture(scope="module")
def zero_shot(photos: Path, some: list[Path], resnet: str) -> list[Prediction]:
    return fit(photos, "clip", resnet, shots=2).predict(some)


OUTSIDE = {
    "clip": (),
    "clip_ensemble": (),
    "linear_probe": (),
    "tip_adapter": (),
    "tip_adapter_f": SHORT,
    "clip_adapter": SHORT,
    "taskres": SHORT,
    "wise_ft": SHORT,
    "coop": SHORT,
    "cocoop": SHORT,
    "kgcoop": SHORT,
}
"""Methods that enter no image tower."""


@pytest.mark.parametrize("method", OUTSIDE)
def test_the_whole_path_on_a_resnet(
    method: str, photos: Path, some: list[Path], resnet: str, zero_shot: list[Prediction], tmp_path: Path
) -> None:
    settings, out = OUTSIDE[method], tmp_path / "run"
    fitted = fit(photos, method, resnet, shots=2, settings=settings, precision="fp32", out=out)
    loaded = Classifier.load(out)
    assert loaded.predict(some) == fitted.predict(some)
    assert loaded.predict(some, ["red panda", "tabby"]) == fitted.predict(some, ["red panda", "tabby"])
    used = 4 if fitted.header.get("chosen") else 2
    assert loaded.evaluate(photos).images == 4 * 6 - 4 * used
    assert (loaded.predict(some) == zero_shot) == (method == "clip")
    measured = loaded.shift(some)
    assert measured.image == measured.discrepancy == []
    assert measured.total_discrepancy is None
    moved = {"wise_ft", "clip_adapter"}
    assert (measured.image_feature.relative.mean > 0) == (method in moved)
    assert len(measured.text) == 3


@pytest.mark.parametrize("method", ["vpt", "restore", "clip_lora"])
def test_what_cannot_enter_a_resnet_leaves_nothing_behind(
    method: str, photos: Path, resnet: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^(Prompts|LoRA) cannot enter the image tower of .* ModifiedResNet"):
        fit(photos, method, resnet, shots=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_log_of_blocks_that_are_not_shown_is_refused(photos: Path, resnet: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"logged block by block in the image tower .*; leave out --log-shift"
    ):
        fit(photos, "coop", resnet, shots=2, settings=SHORT, out=tmp_path / "run", log_shift=True)
    assert not (tmp_path / "run").exists()
