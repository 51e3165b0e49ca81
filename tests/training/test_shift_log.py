"""Feature shift logged while training: what is written, when, and that nothing else changes."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from restore_vlm import UserError, cli, fit
from restore_vlm.runtime.files import read_lines, write_toml
from restore_vlm.training import Progress, RunFolder, loop

SHORT = ("training.epochs=2", "training.batch=4")
KEYS = {"epoch", "step", "loss", "shift_text", "shift_image", "discrepancy", "text", "image"}


def lines(folder: Path, file: str = "shift.jsonl") -> list[dict]:
    return read_lines(folder / file, dict, "")


METHODS = {
    "finetuned": ("wise_ft", SHORT),
    "head": ("clip_adapter", SHORT),
    "residual": ("taskres", SHORT),
    "cache": ("tip_adapter_f", SHORT),
    "averaged": ("promptsrc", SHORT),
    "per class": ("coop", (*SHORT, "prompts.per_class=true")),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_method_logs_and_ends_with_the_same_bits(
    photos: Path, tmp_path: Path, name: str
) -> None:
    method, settings = METHODS[name]
    for log in (True, False):
        out = tmp_path / str(log)
        fit(photos, method, shots=2, settings=settings, out=out, log_shift=log, precision="fp32")
    a, b = (load_file(tmp_path / str(log) / "adapter.safetensors") for log in (True, False))
    assert a and all(torch.equal(a[key], b[key]) for key in a.keys() | b.keys())
    metrics = [(tmp_path / str(log) / "metrics.jsonl").read_bytes() for log in (True, False)]
    assert metrics[0] == metrics[1]
    assert [line["epoch"] for line in lines(tmp_path / "True")] == [0, 1, 2]


def test_what_a_line_says(photos: Path, tmp_path: Path) -> None:
    fit(photos, "restore", shots=2, settings=SHORT, out=tmp_path, log_shift=True, precision="fp32")
    first, *rest = lines(tmp_path)
    assert all(line.keys() == KEYS for line in (first, *rest))
    assert first["loss"] is None and first["step"] == 0
    metrics = lines(tmp_path, "metrics.jsonl")
    for line in rest:
        mine = [m["loss"] for m in metrics if m["epoch"] == line["epoch"]]
        assert line["loss"] == pytest.approx(sum(mine) / len(mine), rel=1e-12)
        assert line["shift_text"] == pytest.approx(sum(line["text"]) / len(line["text"]))
        gaps = zip(line["text"], line["image"], strict=True)
        assert line["discrepancy"] == pytest.approx(sum((t - i) ** 2 for t, i in gaps))


def test_many_classes_are_not_all_looked_at_and_stay(photos: Path, tmp_path: Path) -> None:
    every = sorted(photos.rglob("*.*"))
    for i in range(60):
        (tmp_path / "data" / f"class {i:02}").mkdir(parents=True)
        shutil.copy(every[i % len(every)], tmp_path / "data" / f"class {i:02}")
    settings = ("training.epochs=1", "training.batch=20")
    runs = [
        fit(tmp_path / "data", "ivlp", settings=settings, out=tmp_path / str(log), log_shift=log)
        for log in (True, False)
    ]
    a, b = (run.model.adapter_state() for run in runs)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert len(runs[0].model.classnames) == len(runs[0].model.rows) == 60
    assert [line["step"] for line in lines(tmp_path / "True")] == [0, 3]


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [2, 5])
def test_the_loss_of_an_epoch_survives_a_kill_in_it(
    photos: Path, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def stop(done: int, total: int, metrics: dict) -> None:
        if done == at + 1:
            raise Killed

    def start(folder: Path, progress: Progress | None = None) -> None:
        settings = ("training.epochs=2", "training.batch=2")
        fit(photos, "ivlp", shots=2, settings=settings, out=folder, log_shift=True, progress=progress)

    with pytest.raises(Killed):
        start(tmp_path / "a", Progress(on_step=stop))
    start(tmp_path / "a")
    start(tmp_path / "b")
    for file in ("shift.jsonl", "metrics.jsonl", "adapter.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("log", [True, False])
def test_the_flag_is_part_of_the_request_but_not_of_the_recipe(
    photos: Path, tmp_path: Path, log: bool
) -> None:
    fit(photos, "ivlp", shots=2, settings=SHORT, out=tmp_path, log_shift=log)
    config = tomllib.loads((tmp_path / "config.toml").read_text())
    assert config["run"]["log_shift"] is log and "log_shift" not in json.dumps(config["method"])
    with pytest.raises(UserError, match=r"holds a run with another run\.log_shift; choose another --out"):
        fit(photos, "ivlp", shots=2, settings=SHORT, out=tmp_path, log_shift=not log)


def test_a_run_of_a_version_without_the_flag_goes_on(photos: Path, tmp_path: Path) -> None:
    fit(photos, "ivlp", shots=2, settings=SHORT, out=tmp_path)
    config = RunFolder(tmp_path).read_config()
    del config["run"]["log_shift"]
    write_toml(tmp_path / "config.toml", config)
    fit(photos, "ivlp", shots=2, settings=SHORT, out=tmp_path)
    with pytest.raises(UserError, match=r"another run\.log_shift"):
        fit(photos, "ivlp", shots=2, settings=SHORT, out=tmp_path, log_shift=True)


def test_the_command(photos: Path, tmp_path: Path) -> None:
    short = [word for setting in SHORT for word in ("--set", setting)]
    for method, logged in (("restore", True), ("clip", False), ("linear_probe", False)):
        out = tmp_path / method
        arguments = ["train", str(photos), "--method", method, "--shots", "2", "--out", str(out)]
        more = short if logged else []
        result = CliRunner().invoke(cli.app, [*arguments, *more, "--log-shift"], catch_exceptions=False)
        assert result.exit_code == 0
        assert (out / "shift.jsonl").exists() == logged


def test_two_processes_write_one_log(photos: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["--shots", "2", "--device", "cpu", "--precision", "fp32", "--out", str(tmp_path / "two")]
    settings = [word for setting in SHORT for word in ("--set", setting)]
    command = [*launcher, "-m", "restore_vlm.cli", "train", str(photos), "--log-shift", *options, *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    fit(photos, shots=2, settings=SHORT, out=tmp_path / "one", log_shift=True, precision="fp32", device="cpu")
    together, alone = lines(tmp_path / "two"), lines(tmp_path / "one")
    assert [line["step"] for line in together] == [0, 2, 4]
    for mine, expected in zip(together, alone, strict=True):
        for key in KEYS - ({"loss"} if mine["step"] == 0 else set()):
            assert mine[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-7), key
