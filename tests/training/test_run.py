import errno
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from backbone.tiny_models import tiny
from restore_vlm.data import train_transform
from restore_vlm.errors import UserError
from restore_vlm.method import Recipe, load_recipe
from restore_vlm.runtime.precision import resolve_precision
from restore_vlm.training import Progress, RunConfig, RunFolder, read_tensors, run
from restore_vlm.training.loop import Trainer
from restore_vlm.training.run import fit_depth, resolve_recipe

SHORT = ("training.epochs=3", "training.batch=2", "prompts.depth=3")


def request(photos: Path, **options) -> RunConfig:
    return RunConfig(**{"data": str(photos), "shots": 3, "precision": "fp32", "settings": SHORT, **options})


def results(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    return read_tensors(folder / "adapter.safetensors")[0], (folder / "metrics.jsonl").read_text()


def same(a: tuple, b: tuple) -> bool:
    return a[1] == b[1] and a[0].keys() == b[0].keys() and all(torch.equal(a[0][n], b[0][n]) for n in a[0])


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(request(photos), folder)
    return folder


def test_a_run_leaves_what_it_says(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    assert names == {
        "config.toml", "environment.json", "metrics.jsonl", "images.json", "adapter.safetensors",
        "checkpoint.safetensors",
    }  # fmt: skip
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 19))
    assert {"loss", "cross_entropy", "feature_shift", "lr", "epoch", "accuracy"} <= lines[0].keys()
    header = read_tensors(finished / "adapter.safetensors")[1]
    assert header["backbone"] == "tiny"
    assert len(header["classes"]) == 4
    assert (finished / "adapter.safetensors").stat().st_size < 4e6
    assert len(RunFolder(finished).read_images()) == 12


def test_surgery_ratios_grow_once(finished: Path) -> None:
    tensors, header = read_tensors(finished / "adapter.safetensors")
    assert tensors["text_surgery.ratio"] > header["method"]["surgery"]["text_ratio"]
    assert tensors["image_surgery.ratio"] > header["method"]["surgery"]["vision_ratio"]


@pytest.mark.parametrize("measure", ["prompt", "embedding"])
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_steps_it_ends_the_same(
    photos: Path, tmp_path: Path, measure: str, seed: int
) -> None:
    settings = (*SHORT, f"losses.feature_shift.measure={measure}")
    run(request(photos, settings=settings, seed=seed), tmp_path / "whole")
    script = (
        "import os, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from restore_vlm.training import Progress, RunConfig, loop, run\n"
        "torch.set_num_threads(1)\n"
        "loop.CHECKPOINT_SECONDS = 0.05\n"
        "stop = int(sys.argv[3])\n"
        "def on_step(done, total, metrics):\n"
        "    if done == stop: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run(RunConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Progress(on_step=on_step))\n"
    )
    config = request(photos, settings=settings, seed=seed).model_dump_json()
    kills = sorted(random.Random(f"{measure} {seed}").sample(range(1, 18), 2))
    for stop in (*kills, 0):
        command = [sys.executable, "-c", script, config, str(tmp_path / "killed"), str(stop)]
        code = subprocess.run(command, capture_output=True, check=False).returncode
        assert code == (-9 if stop else 0)
    assert same(results(tmp_path / "killed"), results(tmp_path / "whole"))


def test_a_finished_run_is_not_trained_again(photos: Path, finished: Path) -> None:
    before, steps = results(finished), []
    run(request(photos), finished, Progress(on_step=lambda done, total, metrics: steps.append(done)))
    assert not steps
    assert same(results(finished), before)


def test_another_run_in_the_same_folder(photos: Path, finished: Path) -> None:
    with pytest.raises(UserError, match=r"another run\.seed; choose another --out"):
        run(request(photos, seed=2), finished)


def test_a_folder_of_something_else(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not a run of restore-vlm"):
        run(request(photos), tmp_path)


def test_a_damaged_checkpoint(photos: Path, tmp_path: Path) -> None:
    run(request(photos), tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"checkpoint\.safetensors is damaged"):
        run(request(photos), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(photos: Path, tmp_path: Path) -> None:
    settings = (*SHORT, "training.lr=1e20", "training.epochs=4")
    with pytest.raises(
        UserError, match=r"stopped at step \d+ .* the \w+ loss is (nan|inf) at learning rate 1e\+20"
    ):
        run(request(photos, settings=settings), tmp_path / "run")
    tensors, header = read_tensors(RunFolder(tmp_path / "run").checkpoint)
    assert all(t.isfinite().all() for t in tensors.values())
    assert header["step"] >= 1
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


@pytest.mark.parametrize(
    "setting", ["prompts.length=1000000000000", f"prompts.length={10**25}", "training.weight_decay=1e300"]
)
def test_what_no_machine_can_hold(photos: Path, setting: str) -> None:
    with pytest.raises(UserError, match=r"more than this machine can hold \(.+\); lower"):
        run(request(photos, method="ivlp", settings=("training.epochs=1", setting)))


def test_a_full_disk(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        run(request(photos), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("method", ["clip", "vpt", "ivlp", "maple"])
def test_every_method_runs(photos: Path, tmp_path: Path, method: str) -> None:
    settings = () if method == "clip" else ("training.epochs=1",)
    trained = run(request(photos, method=method, settings=settings), tmp_path / "run")
    model, header = trained.model, trained.header
    assert header["method"]["name"] == method
    assert (model.prompts is None) == (method == "clip")


def test_both_halves_of_averaging_and_prograd_run(photos: Path) -> None:
    settings = (*SHORT, "gradient=prograd", "averaging.mean=2")
    model = run(request(photos, settings=settings)).model
    assert all(p.isfinite().all() for p in model.trainable().values())


def test_bf16_trains(photos: Path) -> None:
    model = run(request(photos, precision="bf16")).model
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.trainable().values())


def test_fp16_needs_cuda() -> None:
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        resolve_precision("fp16", torch.device("cpu"))


def test_short_classes_are_said(photos: Path) -> None:
    said: list[str] = []
    run(request(photos, shots=8, settings=("training.epochs=0",)), None, Progress(say=said.append))
    assert any("fewer than 8 training images" in text for text in said)


TAKEN = {"recipe": "default", "settings": ("training.epochs=0",)}


@pytest.mark.parametrize(
    ("options", "depth", "sentence"),
    [
        (
            TAKEN,
            6,
            "Prompt depth 9 of the recipe, made for 12 blocks, is scaled to 6 of the 8 blocks of tiny.",
        ),
        (TAKEN | {"method": "vpt"}, 8, "scaled to 8 of the 8 blocks"),
        (TAKEN | {"method": "kgcoop"}, 1, None),
        (TAKEN | {"recipe": "auto"}, 8, None),
        (TAKEN | {"settings": ("training.epochs=0", "prompts.depth=5")}, 5, None),
        (
            TAKEN | {"settings": ("training.epochs=0", "prompts.depth=99")},
            8,
            "Prompt depth 99 is more than tiny has: all 8 blocks get prompts.",
        ),
    ],
)
def test_depth_fits_the_backbone(
    photos: Path, tmp_path: Path, options: dict, depth: int, sentence: str | None
) -> None:
    said: list[str] = []
    trained = run(request(photos, **options), tmp_path / "run", Progress(say=said.append))
    model, header = trained.model, trained.header
    assert model.prompts.depth == header["method"]["prompts"]["depth"] == depth
    about_depth = [text for text in said if "epth" in text]
    assert len(about_depth) == (sentence is not None)
    assert all(sentence in text for text in about_depth)
    stored = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert stored["method"]["prompts"]["depth"] == depth
    assert stored["run"]["recipe"] == header["recipe"] == options["recipe"].replace("auto", "tiny")
    assert stored["run"]["settings"] == header["settings"] == list(options["settings"])
    scaled = header["scaled_depth"]
    assert stored.get("scaled_depth") == scaled
    assert (scaled is not None) == bool(sentence and "scaled" in sentence)
    assert scaled is None or (scaled["blocks"], scaled["depth"]) == (8, depth)
    assert read_tensors(tmp_path / "run" / "adapter.safetensors")[1] == header


@pytest.mark.parametrize(
    ("text", "image", "towers", "depth", "published", "fitting"),
    [
        (12, 12, "both", 9, True, 9),
        (24, 12, "both", 9, True, 9),
        (24, 24, "both", 12, True, 12),
        (4, 24, "both", 9, True, 3),
        (4, 24, "image", 9, True, 9),
        (4, 24, "text", 9, True, 3),
        (3, 3, "both", 1, True, 1),
        (6, 6, "both", 20, True, 6),
        (6, 6, "both", 5, False, 5),
        (6, 6, "both", 7, False, 6),
    ],
)
def test_fit_depth(
    text: int,
    image: int,
    towers: str,
    depth: int,
    published: bool,
    fitting: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, backbone = tiny("gelu")
    monkeypatch.setattr(backbone.text, "depth", text)
    monkeypatch.setattr(backbone.image, "depth", image)
    recipe = load_recipe("ivlp", settings=[f"prompts.towers={towers}", f"prompts.depth={depth}"])
    said: list[str] = []
    fitted, scaled = fit_depth(recipe, backbone, published, Progress(say=said.append))
    assert fitted.prompts.depth == fitting
    assert len(said) == (fitting != depth)
    assert bool(scaled) == (published and fitting != depth)


@pytest.mark.parametrize(
    "settings",
    [
        ("averaging.mean=2",),
        ("averaging.kind=interpolation", "averaging.alpha=0.25"),
    ],
)
def test_averaging_is_the_direct_computation(photos: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    """Of the weights that the same run without averaging passes through; killed and resumed or not."""
    seen: list[dict[str, torch.Tensor]] = []
    add = Trainer._end_epoch

    def end_epoch(trainer: Trainer, epoch: int) -> None:
        seen.append({n: p.detach().clone() for n, p in trainer.learned.items()})
        add(trainer, epoch)

    short = (*SHORT, "training.epochs=4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", end_epoch)
        run(request(photos, settings=short))
    start = run(request(photos, settings=(*SHORT, "training.epochs=0"))).model
    first = {n: p.detach() for n, p in start.trainable().items()}
    if "interpolation" in settings[0]:
        wanted = {n: 0.75 * first[n] + 0.25 * seen[-1][n] for n in first}
    else:
        share = [math.exp(-((e - 2) ** 2) / 2) for e in (1, 2, 3, 4)]
        wanted = {n: sum(w * s[n] for w, s in zip(share, seen, strict=True)) / sum(share) for n in first}
    model = run(request(photos, settings=(*short, *settings)), tmp_path / "whole").model
    for name, parameter in model.trainable().items():
        torch.testing.assert_close(parameter.detach(), wanted[name], rtol=1e-5, atol=1e-6)

    def stop(done: int, total: int, metrics: dict) -> None:
        if done == total - 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(request(photos, settings=(*short, *settings)), tmp_path / "killed", Progress(on_step=stop))
    run(request(photos, settings=(*short, *settings)), tmp_path / "killed")
    assert same(results(tmp_path / "killed"), results(tmp_path / "whole"))


def test_the_same_image_in_train_and_test_is_said(photos: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for folder in photos.iterdir():
            target = tmp_path / part / folder.name
            target.mkdir(parents=True)
            source = sorted(folder.iterdir())[0]
            (target / f"{part}.webp").write_bytes(source.read_bytes())
    said: list[str] = []
    run(request(tmp_path, settings=("training.epochs=1", "prompts.depth=1")), None, Progress(say=said.append))
    assert any("4 images are in both train and test" in text for text in said)


def test_a_recipe_made_in_python_is_recorded_and_resumed(photos: Path, tmp_path: Path) -> None:
    mine = Recipe(
        name="mine",
        prompts={"depth": 2},
        losses={"cross_entropy": None, "text_anchor": {}, "feature_shift": {}},
        training={"epochs": 1, "batch": 8},
    )
    for _ in range(2):
        header = run(request(photos, method=mine, settings=()), tmp_path / "run").header
    assert header["method"]["name"] == "mine"
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["run"]["method"]["name"] == "mine"


@pytest.mark.parametrize(
    ("method", "folder", "classes", "shots", "backbone", "expected"),
    [
        ("restore", "dtd", "all", 16, "tiny", "tiny"),
        ("restore", "dtd", "all", 16, "ViT-B-16:openai", "dtd"),
        ("restore", "my photos", "all", 16, "ViT-B-16:openai", "default"),
        ("coop", "my photos", "all", 4, "ViT-B-16:openai", "few_shot+few_shot_4"),
        ("coop", "my photos", "base", 4, "ViT-B-16:openai", "default"),
        ("coop", "my photos", "all", None, "ViT-B-16:openai", "few_shot"),
        ("taskres", "imagenet", "names.txt", 1, "ViT-B-16:openai", "shots_1+imagenet"),
    ],
)
def test_the_recipe_that_is_taken(method, folder, classes, shots, backbone, expected: str) -> None:
    """By data set, classes and shots, where the backbone has none of its own."""
    config = RunConfig(data=f"data/{folder}", method=method, classes=classes, shots=shots, backbone=backbone)
    recipe, name = resolve_recipe(config)
    assert name == expected
    assert recipe == load_recipe(method, expected)


def test_a_recipe_that_is_taken_by_itself_is_said(photos: Path, tmp_path: Path) -> None:
    mine, said = tmp_path / "mine.toml", list[str]()
    mine.write_text('base = "tip_adapter"\n[recipes.few_shot]\nheads.cache.views = 1\n')
    trained = run(request(photos, method=str(mine), settings=()), None, Progress(say=said.append))
    assert said == ["Recipe of mine for this training: few_shot."]
    assert (trained.header["recipe"], trained.model.config.heads.cache.views) == ("few_shot", 1)


def test_crops_and_flips_of_the_recipe_are_those_of_training(photos: Path, monkeypatch) -> None:
    made: list[tuple] = []
    real = train_transform

    def noted(*args):
        made.append(args[1:])
        return real(*args)

    monkeypatch.setattr(sys.modules[fit_depth.__module__], "train_transform", noted)
    run(request(photos, settings=(*SHORT, "training.crop=[0.9, 1.0]", "training.flip=0.0")))
    run(request(photos))
    assert made == [((0.9, 1.0), 0.0), ((0.08, 1.0), 0.5)]


def test_a_folder_of_before_crops_were_keys_is_the_same_run(photos: Path, finished: Path) -> None:
    """The configuration that is written of a run did not change."""
    config = (finished / "config.toml").read_text()
    assert not any(key in config for key in ("crop", "flip", "keep_last", "raw_ensemble", "fixed_template"))
    with pytest.raises(UserError, match=r"another .*method\.training\.flip"):
        run(request(photos, settings=(*SHORT, "training.flip=0.0")), finished)


def test_data_for_testing_only_is_refused(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "data" / "test")
    with pytest.raises(UserError, match="train"):
        run(request(tmp_path / "data"))
