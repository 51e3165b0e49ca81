"""One run, wherever it is executed: train unless that is done, then the tests that are missing."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from contextlib import suppress
from pathlib import Path

from restore_vlm.backbone import load_backbone, pick_device
from restore_vlm.bench.datasets import Subset
from restore_vlm.bench.features import evaluate_cached
from restore_vlm.bench.plan import Job
from restore_vlm.bench.store import JobFolder, Store
from restore_vlm.classifier import Classifier
from restore_vlm.data.dataset import same_name
from restore_vlm.errors import UserError
from restore_vlm.measure import Probe
from restore_vlm.method import PromptedModel, load_recipe
from restore_vlm.runtime.files import DamagedFile
from restore_vlm.runtime.locks import locked
from restore_vlm.training import Progress, RunConfig, run, write_atomic, write_json
from restore_vlm.training.loop import OnStep

SOME = 0.2
"""Asks for validation; data that have a validation split give up none of their training images."""


def execute(job: Job, out: Path, on_step: OnStep = lambda done, total, metrics: None) -> str | None:
    """Computes what of a run is missing and writes it down as it comes.

    Args:
        job: The run.
        out: The grid's folder.
        on_step: Called after every training step.

    Returns:
        None, or in one sentence why it failed; that is also written to ``error.json``.
    """
    place = Store(out).run(job.spec.address)
    try:
        with locked(place.path / ".lock", wait=True):
            _execute(job, place, out, on_step)
    except UserError as error:
        return _note(place, job, str(error), "")
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return _note(place, job, f"{type(error).__name__}: {first}", traceback.format_exc())
    return None


def _execute(job: Job, place: JobFolder, out: Path, on_step: OnStep) -> None:
    missing = job.lacking(place.done)
    if not missing:
        return
    if not place.label():
        write_json(place.spec, {"label": job.label, **vars(job.spec)})
    try:
        model, seconds = _model(job, place, on_step)
    except DamagedFile:
        shutil.rmtree(place.model, ignore_errors=True)
        model, seconds = _model(job, place, on_step)
    for address, test in missing.items():
        began = time.monotonic()
        asked = model.asked_in(**test.words).eval()
        found = evaluate_cached(asked, test.images, job.spec.backbone, out / "cache")
        probe = Probe.of(test.images.items, test.images.classes, model.backbone)
        spent = {"training_seconds": seconds, "seconds": round(time.monotonic() - began, 2)}
        shift = probe.measure(asked).as_json()
        words = {"template": asked.config.template, "ensemble": asked.config.ensemble}
        content = {"dataset": test.images.name, **words, **found.as_json(), "shift": shift, **spent}
        write_json(place.test(address), content)
    with suppress(OSError):
        place.error.unlink(missing_ok=True)


def _model(job: Job, place: JobFolder, on_step: OnStep) -> tuple[PromptedModel, float]:
    """The model to test, and the seconds spent training it."""
    model = _zero_shot(job) if job.train is None else _trained(job, place, on_step)
    return model, place.training_seconds()


def _zero_shot(job: Job) -> PromptedModel:
    (test,) = job.tests.values()
    recipe = load_recipe(job.method, job.recipe, job.settings)
    backbone = load_backbone(job.backbone).to(pick_device(job.device))
    return PromptedModel(backbone, recipe, test.images.classes)


def _trained(job: Job, place: JobFolder, on_step: OnStep) -> PromptedModel:
    if (place.model / "adapter.safetensors").is_file():
        return Classifier.load(place.model, job.device).model
    assert job.train is not None
    assert job.spec.seed is not None
    data, shots, part, names = _training_data(job, job.train, place.data)
    place.forget_elsewhere(data, job.device)
    config = RunConfig(
        data=str(data), method=job.method, backbone=job.backbone, shots=shots, seed=job.spec.seed,
        classes=part, settings=job.settings, recipe=job.recipe, names=names, device=job.device,
        precision=job.spec.precision,  # type: ignore[arg-type]
        validation=SOME if job.validation else None,
    )  # fmt: skip
    return run(config, place.model, Progress(on_step=on_step)).model


def _training_data(job: Job, train: Subset, folder: Path) -> tuple[Path, int | None, str, str | None]:
    """Data, shots, classes and file of names for training: a list of just the images that are used.

    Where settings are chosen on validation images these are in the list, as its validation split.

    Names that repeat, as ImageNet's do, are read from the published dataset alone; there it is the
    dataset itself, of which all images are looked at to draw the very same few.
    """
    if len({same_name(name) for name in train.classes}) < len(train.classes):
        place, shots, part = job.drawn
        return place.absolute(), shots, part, None
    manifest, names = folder / "train.jsonl", folder / "names.txt"
    rows = [{"path": str(i.path.absolute()), "class": f"{i.label:06}"} for i in train.items]
    if job.validation:
        rows = [row | {"split": "train"} for row in rows]
        held = job.validation.items
        rows += [{"path": str(i.path.absolute()), "class": f"{i.label:06}", "split": "val"} for i in held]
    write_atomic(manifest, "".join(json.dumps(row) + "\n" for row in rows))
    write_atomic(names, "".join(f"{name}\n" for name in train.classes))
    return manifest, None, "all", str(names)


def _note(place: JobFolder, job: Job, sentence: str, trace: str) -> str:
    with suppress(UserError):
        write_json(place.error, {"label": job.label, "error": sentence, "trace": trace})
    return sentence
