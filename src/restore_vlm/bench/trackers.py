"""Finished runs copied to an experiment tracker; the JSON lines of every run stay the original."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from restore_vlm.bench.plan import Job
from restore_vlm.bench.store import JobFolder, Store
from restore_vlm.errors import UserError, unknown
from restore_vlm.runtime.files import read_json, write_json
from restore_vlm.training import RunFolder


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        name: For people.
        address: Of the run.
        settings: Flat: dotted key to value.
        steps: (step, metric name, value).
        scores: What its tests found, by dataset and part.
        folder: The grid's.
    """

    name: str
    address: str
    settings: dict[str, Any]
    steps: list[tuple[int, str, float]]
    scores: dict[str, float]
    folder: Path


class StoredTests(BaseModel):
    """What is read back of ``tracked-TRACKER.json``."""

    tests: list[str]


class Tracking:
    """Called with every run that ends; tells each finished one to a tracker, once.

    Args:
        tracker: One of :data:`TRACKERS`.
        store: The grid's.

    Raises:
        UserError: If the tracker is unknown or not installed.
    """

    def __init__(self, tracker: str, store: Store) -> None:
        if tracker not in TRACKERS:
            raise unknown("tracker", tracker, TRACKERS)
        self.tracker, self.store = tracker, store
        self.write = TRACKERS[tracker]()

    def __call__(self, job: Job) -> None:
        place = self.store.run(job.spec.address)
        file = place.path / f"tracked-{self.tracker}.json"
        tests = sorted(t for t in job.tests if place.done(t) is not None)
        with suppress(UserError):
            if not tests or read_json(file, StoredTests, "")["tests"] == tests:
                return
        self.write(_tracked_run(job, place, self.store.out))
        write_json(file, {"tests": tests})


def _tracked_run(job: Job, place: JobFolder, out: Path) -> TrackedRun:
    scores = {}
    for address, test in job.tests.items():
        result = place.done(address)
        if result is not None:
            part = "" if job.train is None or len(job.tests) == 1 else f"_{_part(job, address)}"
            scores[f"accuracy/{test.images.name}{part}"] = result["accuracy"]
    settings = dict(_flat({"backbone": job.backbone, "seed": job.spec.seed, **job.spec.recipe}))
    return TrackedRun(job.label, job.spec.address, settings, list(_steps(place)), scores, out)


def _part(job: Job, address: str) -> str:
    """``trained`` for a test on the classes of training, ``other`` for others of the same dataset."""
    test = job.tests[address].images
    assert job.train is not None
    return "trained" if test.classes == job.train.classes else "other"


def _steps(place: JobFolder) -> Iterator[tuple[int, str, float]]:
    for line in RunFolder(place.model).read_metrics():
        step = line.pop("step")
        yield from ((step, name, float(value)) for name, value in line.items())


def _flat(table: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _tensorboard() -> Callable[[TrackedRun], None]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise _absent("TensorBoard") from None

    def write(tracked: TrackedRun) -> None:
        with SummaryWriter(
            str(tracked.folder / "tensorboard" / f"{tracked.name} {tracked.address[:6]}")
        ) as log:
            log.add_text("settings", json.dumps(tracked.settings, indent=2))
            for step, name, value in tracked.steps:
                log.add_scalar(f"train/{name}", value, step)
            for name, value in tracked.scores.items():
                log.add_scalar(name, value)

    return write


def _mlflow() -> Callable[[TrackedRun], None]:
    try:
        import mlflow
    except ImportError:
        raise _absent("MLflow") from None
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    def write(tracked: TrackedRun) -> None:
        uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else _file_store(tracked.folder)
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(tracked.folder.name)
        experiment = found.experiment_id if found else client.create_experiment(tracked.folder.name)
        run = client.create_run(
            experiment, run_name=tracked.name, tags={"address": tracked.address}
        ).info.run_id
        metrics = [Metric(f"train/{name}", value, 0, step) for step, name, value in tracked.steps]
        metrics += [Metric(name, value, 0, 0) for name, value in tracked.scores.items()]
        params = [Param(name, str(value)[:500]) for name, value in tracked.settings.items()]
        client.log_batch(run, params=params[:100])
        for start in range(0, len(metrics), 1000):
            client.log_batch(run, metrics[start : start + 1000])
        client.set_terminated(run)

    return write


def _file_store(folder: Path) -> str:
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3.17 asks for this opt-in
    return (folder / "mlruns").as_uri()


def _wandb() -> Callable[[TrackedRun], None]:
    try:
        import wandb  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise _absent("wandb") from None

    def write(tracked: TrackedRun) -> None:
        run = wandb.init(
            project=tracked.folder.name, name=tracked.name, id=tracked.address, config=tracked.settings,
            dir=str(tracked.folder), reinit="finish_previous",
        )  # fmt: skip
        by_step: dict[int, dict[str, float]] = {}
        for step, name, value in tracked.steps:
            by_step.setdefault(step, {})[f"train/{name}"] = value
        for step, values in by_step.items():
            run.log(values, step=step)
        run.summary.update(tracked.scores)
        run.finish()

    return write


def _absent(name: str) -> UserError:
    return UserError(f"{name} is not installed; install it: pip install 'restore-vlm[trackers]'.")


TRACKERS: dict[str, Callable[[], Callable[[TrackedRun], None]]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
