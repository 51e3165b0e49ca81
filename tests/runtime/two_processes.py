"""What each of two processes does for test_distributed.py, in the order of the command line's words."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from restore_vlm import cli
from restore_vlm.data import Images, load_dataset, test_transform
from restore_vlm.errors import UserError
from restore_vlm.evaluation import compare, evaluate, probabilities
from restore_vlm.training import Progress, RunConfig, Trained, loop, run, write_tensors

RUNS = {
    "prompt": ("restore", ("prompts.depth=3",)),
    "embedding": ("restore", ("prompts.depth=3", "losses.feature_shift.measure=embedding")),
    "prograd": ("maple", ("gradient=prograd",)),
    "promptsrc": ("promptsrc", ()),
    "cache": ("tip_adapter_f", ("training.clip_norm=0.01",)),
    "probe": ("linear_probe", ()),
}
SEARCHING = ("cache", "probe")
"""Runs whose settings are chosen on validation photos."""
EPOCHS, BATCH, STOP = 3, 4, 5
TESTED = (13, 1)
"""Numbers of images to test on: neither divides, and of one image the second process gets none."""


def request(photos: Path, name: str, **options: Any) -> RunConfig:
    method, settings = RUNS[name]
    given = (f"training.batch={BATCH}", f"training.epochs={EPOCHS}", *settings, *options.pop("more", ()))
    options |= {"validation": 0.2} if name in SEARCHING else {}
    return RunConfig(
        data=str(photos), method=method, shots=3, precision="fp32", device="cpu", settings=given, **options
    )


def results(trained: Trained, photos: Path) -> dict[str, Any]:
    """The figures of tests on an odd number of photos, the probabilities behind them, and a comparison."""
    model = trained.model
    compared = compare(trained, "mine")
    data = load_dataset(photos)
    images = Images(data.train[: TESTED[0]], test_transform(model.backbone.preprocess))
    found = [asdict(evaluate(model, data.train[:n], data.classes)) for n in TESTED]
    return {
        "figures": found,
        "probabilities": probabilities(model, images).tolist(),
        "compared": compared and compared.model_dump(mode="json"),
        "chosen": trained.header.get("chosen"),
    }


def train(photos: Path, out: Path, rank: int) -> None:
    for name in RUNS:
        trained = run(request(photos, name), out / name)
        write_tensors(out / f"{name}-{rank}.safetensors", trained.model.adapter_state(), {})
        (out / f"{name}-{rank}.json").write_text(json.dumps(results(trained, photos)))


def killed(photos: Path, out: Path, rank: int) -> None:
    def kill(done: int, total: int, metrics: dict[str, Any]) -> None:
        if rank and done == STOP:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.CHECKPOINT_SECONDS = 0.0
    run(request(photos, "prompt"), out / "killed", Progress(on_step=kill))


def again(photos: Path, out: Path, rank: int) -> None:
    steps: list[int] = []
    progress = Progress(on_step=lambda done, total, metrics: steps.append(done))
    run(request(photos, "prompt"), out / "killed", progress)
    (out / f"again-{rank}.json").write_text(json.dumps(steps))


def explode(photos: Path, out: Path, rank: int) -> None:
    try:
        run(request(photos, "prompt", more=("training.lr=1e20",)), out / "explode")
    except UserError as error:
        (out / f"explode-{rank}.txt").write_text(str(error))


def claimed(photos: Path, out: Path, rank: int) -> None:
    """Only the first process looks at the folder; all are told."""
    try:
        run(request(photos, "prompt", seed=2), out / "prompt")
    except UserError as error:
        (out / f"claimed-{rank}.txt").write_text(str(error))


def indivisible(photos: Path, out: Path, rank: int) -> None:
    cli.GRACE = 0.0
    options = ["--shots", "3", "--set", "training.batch=3", "--out", str(out / "indivisible")]
    sys.argv = ["restore-vlm", "train", str(photos), "--device", "cpu", *options]
    cli.main()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in sys.argv[3:]:
        try:
            globals()[job](Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["RANK"]))
        except UserError as error:
            sys.exit(f"Error: {error}")
