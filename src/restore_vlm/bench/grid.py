"""A grid: a plan, executed where it is not yet done, watched by whoever looks."""

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
from restore_vlm.terminal import Bars, bars

Finished = Callable[[Job], None]


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
    plan: Plan, request: Request, out: Path, engine: Engine, on_finished: Finished | None = None
) -> dict[str, str]:
    """Executes what of a plan is not done; a run that fails is noted and the others go on.

    Args:
        plan: See :func:`restore_vlm.bench.plan.make_plan`.
        request: What it was made from.
        out: The grid's folder.
        engine: Where to execute.
        on_finished: Called with every run that ends, failed or not.

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
        with bars() as display:
            watch = _Display(display, len(plan.jobs) - len(todo), len(plan.jobs), on_finished)
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


class _Display:
    """A bar for all runs and one for each that is running."""

    def __init__(self, display: Bars, done: int, total: int, on_finished: Finished | None) -> None:
        self.display, self.done, self.total, self.on_finished = display, done, total, on_finished
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()
        self._move()

    def _move(self) -> None:
        note = f"{len(self.failed)} failed" if self.failed else ""
        self.display.move("runs", self.done + len(self.failed), self.total, note)

    def step(self, job: Job, done: int, total: int, note: str) -> None:
        with self.lock:
            self.display.move(job.label, done, total, note)

    def finished(self, job: Job, error: str | None) -> None:
        with self.lock:
            if job.label in self.display.tasks:
                self.display.progress.remove_task(self.display.tasks.pop(job.label))
            if error:
                self.failed[job.label] = error
                self.display.say(f"{job.label} failed: {error}")
            else:
                self.done += 1
            self._move()
            if self.on_finished:
                self._tell(self.on_finished, job)

    def _tell(self, on_finished: Finished, job: Job) -> None:
        """A tracker that is down is no reason to stop."""
        try:
            on_finished(job)
        except Exception as error:
            self.display.say(f"{job.label} is done but was not tracked ({type(error).__name__}: {error}).")


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(42), duration(5400), duration(3 * 86400)
    ('42 s', '1 h 30 min', '72 h 0 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
