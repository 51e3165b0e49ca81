"""A grid: a plan, executed where it is not yet done."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from restore_vlm.backbone import load_backbone
from restore_vlm.bench.engines import Engine
from restore_vlm.bench.plan import Job, Plan, Request
from restore_vlm.bench.store import Store

Finished = Callable[[Job], None]


class GridProgress:
    """What a grid tells while it runs; override what you care about, the rest is ignored.

    Calls come one at a time, though from several threads.

    Example:
        >>> class Printed(GridProgress):
        ...     def on_finish(self, job, error, done, total):
        ...         print(f"{done} of {total}: {job.label} {error or 'is done'}")
    """

    def on_start(self, done: int, total: int) -> None:
        """Before the first run: how many of how many are done already."""

    def on_step(self, job: Job, step: int, steps: int, note: str) -> None:
        """A run has done some of its training steps; the note has its loss."""

    def on_finish(self, job: Job, error: str | None, done: int, total: int) -> None:
        """A run is done, or failed for the reason given; how many of how many have ended."""

    def on_warning(self, text: str) -> None:
        """Something went wrong that does not stop the grid."""


@dataclass(frozen=True)
class Outlook:
    """What a grid has and lacks.

    Attributes:
        done: Runs finished, by method and dataset.
        missing: Runs to compute, likewise.
        seconds: Their time one after the other, from finished runs of the same methods; None where
            a method has none.
    """

    done: Counter[tuple[str, str]]
    missing: Counter[tuple[str, str]]
    seconds: float | None


def run_grid(
    plan: Plan,
    request: Request,
    out: Path,
    engine: Engine,
    on_finished: Finished | None = None,
    progress: GridProgress | None = None,
) -> dict[str, str]:
    """Executes what of a plan is not done; a run that fails is noted and the others go on.

    Args:
        plan: See :func:`restore_vlm.bench.plan.make_plan`.
        request: What it was made from.
        out: The grid's folder.
        engine: Where to execute.
        on_finished: Called with every run that ends, failed or not, such as
            :class:`restore_vlm.bench.trackers.Tracking`; what it raises is a warning.
        progress: Told how it goes; None tells nobody. Nothing is printed or drawn here.

    Returns:
        The reason of every failure in this call, by the run's label.

    Raises:
        UserError: If the backbone cannot be had, or the folder cannot be written or is being written to
            by another grid.
    """
    store = Store(out)
    if missing(plan.jobs, store):
        load_backbone(request.backbone)  # refused, or downloaded, once and not by every run
    with store.lock():
        store.remember(plan.keys, request.conditions())
        todo = missing(plan.jobs, store)
        if not todo:
            return {}
        watch = _Watch(progress or GridProgress(), on_finished, len(plan.jobs) - len(todo), len(plan.jobs))
        engine(todo, store.out, watch)
        return watch.failed


def missing(jobs: Iterable[Job], store: Store) -> list[Job]:
    """The runs of which a test is not done, or is to be done again."""
    return [j for j in jobs if j.lacking(store.run(j.spec.address).done)]


def outlook(plan: Plan, store: Store) -> Outlook:
    """Counts what is done and estimates what is not."""
    todo = {job.spec.address for job in missing(plan.jobs, store)}
    counts: tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]] = (Counter(), Counter())
    for job in plan.jobs:
        counts[job.spec.address in todo][_place(job)] += 1
    times = _times(store)
    spent = [times.get(_method(job.label)) for job in plan.jobs if job.spec.address in todo]
    known = [mean(t) for t in spent if t]
    return Outlook(*counts, sum(known) if len(known) == len(spent) else None)


def _place(job: Job) -> tuple[str, str]:
    dataset = job.train.name if job.train else next(iter(job.tests.values())).images.name
    return _method(job.label), dataset


def _method(label: str) -> str:
    return label.partition(",")[0]


def _times(store: Store) -> dict[str, list[float]]:
    """Seconds of finished runs by method."""
    found: dict[str, list[float]] = {}
    for spec in store.runs.glob("*/spec.json"):
        place = store.run(spec.parent.name)
        tests, label = place.results(), place.label()
        if tests and label:
            seconds = max(t["training_seconds"] for t in tests) + sum(t["seconds"] for t in tests)
            found.setdefault(_method(label), []).append(seconds)
    return found


class _Watch:
    """Counts runs that end and tells of them, one at a time."""

    def __init__(self, progress: GridProgress, on_finished: Finished | None, done: int, total: int) -> None:
        self.progress, self.on_finished, self.done, self.total = progress, on_finished, done, total
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()
        progress.on_start(done, total)

    def step(self, job: Job, done: int, total: int, note: str) -> None:
        with self.lock:
            self.progress.on_step(job, done, total, note)

    def finished(self, job: Job, error: str | None) -> None:
        with self.lock:
            self.done += 1
            if error:
                self.failed[job.label] = error
            self.progress.on_finish(job, error, self.done, self.total)
            if self.on_finished:
                self._track(self.on_finished, job)

    def _track(self, on_finished: Finished, job: Job) -> None:
        """A tracker that is down is no reason to stop."""
        try:
            on_finished(job)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self.progress.on_warning(f"{job.label} is done but was not tracked ({reason}).")


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(42), duration(5400), duration(3 * 86400)
    ('42 s', '1 h 30 min', '72 h 0 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
