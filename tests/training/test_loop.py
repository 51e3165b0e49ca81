import math
from pathlib import Path

import pytest
import torch

from backbone.tiny_models import tiny
from restore_vlm.method import MethodConfig, PromptedModel, TrainingConfig
from restore_vlm.training import Progress, RunConfig, Trainer, learning_rate, read_tensors, run
from restore_vlm.training.loop import make_optimiser
from training.made_up import MadeUp

PER_STEP = ("training.schedule=step", "training.warmup_epochs=0", "training.batch=2")
RUNS = {
    "lora": ("clip_lora", (*PER_STEP, "training.iterations=11", "training.final_lr=1e-6")),
    "cache": ("tip_adapter_f", (*PER_STEP, "training.epochs=2", "heads.cache.views=2")),
    "residual": ("taskres", ("training.batch=2", "training.epochs=2")),
    "interpolated": ("wise_ft", (*PER_STEP, "training.epochs=2")),
    "sgd": ("clip_adapter", (*PER_STEP, "training.iterations=11", "training.clip_norm=0.5")),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("stop", [3, 8])
def test_stopped_anywhere_it_ends_the_same(
    photos: Path, tmp_path: Path, name: str, stop: int, monkeypatch
) -> None:
    monkeypatch.setattr("restore_vlm.training.loop.CHECKPOINT_SECONDS", 0.0)
    method, settings = RUNS[name]
    config = RunConfig(data=str(photos), method=method, shots=3, precision="fp32", settings=settings)

    def kill(done: int, total: int, metrics: dict) -> None:
        if done == stop:
            raise KeyboardInterrupt

    run(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "killed", Progress(on_step=kill))
    torch.rand(stop)
    assert read_tensors(tmp_path / "killed" / "checkpoint.safetensors")[1]["step"] == stop - 1
    run(config, tmp_path / "killed")
    for file in ("adapter.safetensors", "checkpoint.safetensors"):
        whole, killed = (read_tensors(tmp_path / run / file)[0] for run in ("whole", "killed"))
        assert whole.keys() == killed.keys()
        assert all(torch.equal(whole[n], killed[n]) for n in whole)
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "killed")]
    assert lines[0] == lines[1]


def trainer(config: TrainingConfig, precision: str = "fp32", **parts: dict) -> Trainer:
    torch.manual_seed(0)
    method = MethodConfig(name="it", **parts or {"heads": {"clip_adapter": {}}})
    model = PromptedModel(tiny("gelu")[1], method, ["cat", "dog", "tea"])
    return Trainer(model, MadeUp(10, 3), config, 1, precision)


@pytest.mark.parametrize(
    ("optimiser", "reference"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3, weight_decay=0.1)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-3, weight_decay=0.1)),
    ],
)
def test_optimisers(optimiser: str, reference) -> None:
    mine, theirs = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    config = TrainingConfig(optimiser=optimiser, lr=0.01, eps=1e-3, weight_decay=0.1)
    for parameter, steps in ((mine, make_optimiser(config, [mine])), (theirs, reference([theirs]))):
        for power in (1, 2, 3):
            steps.zero_grad()
            (parameter**power).sum().backward()
            steps.step()
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("iterations", "epochs", "batch"), [(None, 3, 4), (7, 9, 4), (2, 1, 4), (4, 5, 99)])
def test_a_step_by_step_cosine(iterations: int | None, epochs: int, batch: int) -> None:
    config = TrainingConfig(
        schedule="step",
        iterations=iterations,
        epochs=epochs,
        batch=batch,
        warmup_epochs=0,
        lr=0.1,
        final_lr=0.01,
    )
    it, rates = trainer(config), []
    it.run(lambda done, total, metrics: rates.append(metrics["lr"]))
    total = iterations or epochs * 2
    assert it.step == it.steps == total
    assert rates == pytest.approx(
        [0.01 + 0.09 * (1 + math.cos(math.pi * s / total)) / 2 for s in range(total)], rel=1e-9
    )
    parameter = torch.nn.Parameter(torch.zeros(1))
    steps = torch.optim.SGD([parameter], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(steps, total, eta_min=0.01)
    for rate in rates:
        assert steps.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-6)
        steps.step()
        theirs.step()


def test_warm_up_epochs_come_first_step_by_step_too() -> None:
    config = TrainingConfig(schedule="step", epochs=4, warmup_epochs=1, lr=0.1, warmup_lr=0.02)
    assert [learning_rate(config, e) for e in (0, 0.5, 1)] == [0.02, 0.02, 0.1]
    assert learning_rate(config, 3) == pytest.approx(0.05)


def test_iterations_end_within_an_epoch() -> None:
    it, epochs = trainer(TrainingConfig(iterations=5, batch=4)), []
    it.run(lambda done, total, metrics: epochs.append((metrics["epoch"], total)))
    assert epochs == [(1, 5), (1, 5), (2, 5), (2, 5), (3, 5)]
    assert it.epochs == 3


@pytest.mark.parametrize("batch", [4, 5, 20])
def test_the_last_batch_of_an_epoch(batch: int) -> None:
    """Dropped where it is incomplete, unless the recipe keeps it."""
    sizes = {}
    for keep_last in (False, True):
        it = trainer(TrainingConfig(batch=batch, epochs=2, keep_last=keep_last))
        sizes[keep_last] = [len(labels) for _, labels in it._batches(0, 0)]
        assert [len(labels) for _, labels in it._batches(1, 1)] == sizes[keep_last][1:]
        it.run()
        assert it.step == 2 * len(sizes[keep_last])
    full, left = divmod(10, min(batch, 10))
    assert sizes[False] == [min(batch, 10)] * full
    assert sizes[True] == sizes[False] + [left] * (left > 0)


def test_iterations_count_last_batches_that_are_kept() -> None:
    it = trainer(TrainingConfig(batch=4, iterations=7, keep_last=True))
    assert (it.steps_per_epoch, it.epochs) == (3, 3)
    it.run()
    assert it.step == 7


def test_clipped_gradients() -> None:
    norms = []
    it = trainer(TrainingConfig(clip_norm=1e-3, epochs=1, momentum=0, weight_decay=0, lr=1.0, warmup_lr=1.0))
    before = {n: p.detach().clone() for n, p in it.learned.items()}

    def moved(done: int, total: int, metrics: dict) -> None:
        step = [(p.detach() - before[n]).flatten() for n, p in it.learned.items()]
        norms.append(torch.cat(step).norm().item())
        before.update({n: p.detach().clone() for n, p in it.learned.items()})

    it.run(moved)
    assert norms == pytest.approx([1e-3] * 2, rel=1e-2)


def test_training_mode_is_for_training() -> None:
    it, modes = trainer(TrainingConfig(epochs=1), weights={"lora": {}}), []
    update = it.model.weights.image.blocks[0].qkv_linear.update
    it.run(lambda *step: modes.append(update.training))
    assert modes == [True, True]
    assert not update.training


def test_training_leaves_the_random_state_alone() -> None:
    it = trainer(TrainingConfig(epochs=1), weights={"lora": {}})
    before = torch.get_rng_state()
    it.run()
    assert torch.equal(torch.get_rng_state(), before)
