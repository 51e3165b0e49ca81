"""Feature shift on a fixed few images, at the end and while training."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from restore_vlm import UserError, fit
from restore_vlm.backbone import load_backbone
from restore_vlm.data import Images, load_dataset
from restore_vlm.data import test_transform as transform_for
from restore_vlm.measure import Probe
from restore_vlm.measure.shift import measure
from restore_vlm.method import PromptedModel, load_recipe
from restore_vlm.runtime.files import add_lines
from restore_vlm.training import Progress, RunFolder, training_images

SHORT = ("training.epochs=2", "training.batch=4")


@pytest.fixture(scope="module")
def model() -> PromptedModel:
    torch.manual_seed(0)
    return PromptedModel(load_backbone("tiny"), load_recipe("ivlp", "tiny"), ["dog", "cat"]).eval()


def test_few_images_are_all_looked_at(model: PromptedModel, photos: Path) -> None:
    data = load_dataset(photos)
    probe = Probe.of(data.train, data.classes, model.backbone)
    loaded = Images(data.train, transform_for(model.backbone.preprocess))
    batch = torch.stack([loaded[i][0] for i in range(len(data.train))])
    direct = measure(model, [batch], data.classes, [i.label for i in data.train])
    assert probe.measure(model) == probe.measure(model, probe.frozen(model)) == direct


def test_many_are_spread_evenly(model: PromptedModel, photos: Path) -> None:
    data = load_dataset(photos)
    probe = Probe.of(data.train, data.classes, model.backbone, images=4, most=2)
    assert probe.classes == [data.classes[0], data.classes[2]]
    assert probe.labels == [0, 0, 1, 1]
    found = probe.measure(model)
    assert list(found.by_class) == probe.classes
    assert all(0 < s.relative.mean < 10 for s in [*found.image, *found.text[1:]])


@pytest.mark.parametrize("method", ["restore", "clip_lora", "cocoop"])
def test_logging_changes_nothing(photos: Path, tmp_path: Path, method: str) -> None:
    settings = ("training.iterations=9", "training.batch=4") if method == "clip_lora" else SHORT
    for name, log in (("with", True), ("without", False)):
        fit(photos, method, shots=2, settings=settings, out=tmp_path / name, log_shift=log, precision="fp32")
    a, b = (load_file(tmp_path / name / "adapter.safetensors") for name in ("with", "without"))
    assert all(torch.equal(a[key], b[key]) for key in a.keys() | b.keys())
    assert not (tmp_path / "without" / "shift.jsonl").exists()


def test_the_towers_are_seen_to_move(photos: Path, tmp_path: Path) -> None:
    seen: list[dict] = []
    run = fit(
        photos, "restore", shots=2, settings=SHORT, out=tmp_path / "run", log_shift=True,
        progress=Progress(on_shift=seen.append), precision="fp32",
    )  # fmt: skip
    lines = RunFolder(tmp_path / "run").read_shift()
    assert lines == seen
    assert [(line["epoch"], line["step"]) for line in lines] == [(0, 0), (1, 2), (2, 4)]
    data = load_dataset(photos)
    few = [i for i in data.train if str(i.path) in training_images(tmp_path / "run")]
    probe = Probe.of(few, data.classes, run.model.backbone, 16)
    last = probe.measure(run.model)
    assert lines[-1]["discrepancy"] == pytest.approx(last.total_discrepancy, rel=1e-5)
    assert lines[-1]["text"] == pytest.approx([s.relative.mean for s in last.text], rel=1e-5, abs=1e-7)
    assert lines[-1]["text"] != lines[0]["text"]


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 3])
def test_what_is_logged_survives_interruption(photos: Path, tmp_path: Path, at: int) -> None:
    def stop(done: int, total: int, metrics: dict) -> None:
        if done == at:
            raise Killed

    def start(folder: Path, progress: Progress | None = None) -> None:
        fit(photos, "ivlp", shots=2, settings=SHORT, out=folder, log_shift=True, progress=progress)

    with pytest.raises(Killed):
        start(tmp_path / "a", Progress(on_step=stop))
    log = tmp_path / "a" / "shift.jsonl"
    if log.exists():
        last = RunFolder(tmp_path / "a").read_shift()[-1]
        add_lines(log, [{**last, "step": 99, "epoch": last["epoch"] + 1}])
    with log.open("a") as file:
        file.write('{"step": 1')
    start(tmp_path / "a")
    start(tmp_path / "b")
    assert (tmp_path / "a" / "shift.jsonl").read_bytes() == (tmp_path / "b" / "shift.jsonl").read_bytes()


def test_another_flag_is_another_run(photos: Path, tmp_path: Path) -> None:
    fit(photos, "ivlp", shots=2, settings=SHORT, out=tmp_path / "run")
    with pytest.raises(UserError, match=r"another run\.log_shift"):
        fit(photos, "ivlp", shots=2, settings=SHORT, out=tmp_path / "run", log_shift=True)


def test_nothing_is_logged_where_nothing_is_trained(photos: Path, tmp_path: Path) -> None:
    fit(photos, "clip", shots=2, out=tmp_path / "run", log_shift=True)
    assert not (tmp_path / "run" / "shift.jsonl").exists()
