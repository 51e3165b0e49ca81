"""The mini benchmark: every method by three protocols on real images at hand, defined in ``mini.toml``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from restore_vlm.bench.datasets import DataRoot
from restore_vlm.bench.engines import Engine
from restore_vlm.bench.grid import GridProgress, Outlook, duration, outlook, run_grid
from restore_vlm.bench.plan import Plan, Request, ResultKey, make_plan
from restore_vlm.bench.render import render
from restore_vlm.bench.scores import Results
from restore_vlm.bench.store import Store
from restore_vlm.bench.tables import tables
from restore_vlm.errors import unknown
from restore_vlm.evaluation.protocol import Trial
from restore_vlm.evaluation.protocols import get_protocol
from restore_vlm.runtime.files import bundled, parse_toml, write_atomic

FORMS = {"md": "markdown", "csv": "csv"}


@dataclass(frozen=True)
class Stage:
    """A part of the benchmark that fills whole tables.

    Attributes:
        title: For people.
        protocol: The name of one.
        trials: What is trained and tested.
        variant: None, or a method and what is changed of it; its table is apart from the others.
    """

    title: str
    protocol: str
    trials: tuple[Trial, ...]
    variant: tuple[str, tuple[str, ...]] | None = None

    def request(self, asked: Request) -> Request:
        """What of a request it concerns."""
        if self.variant is None:
            return asked
        method, settings = self.variant
        return replace(asked, methods=(method,), settings=settings)

    def plan(self, asked: Request, data: DataRoot) -> Plan:
        """Its runs; see :func:`restore_vlm.bench.plan.make_plan`."""
        return make_plan(self.trials, self.request(asked), data)


@cache
def definition() -> dict[str, Any]:
    """The content of ``mini.toml``."""
    return parse_toml(bundled(__package__, "mini.toml"))


def protocols() -> list[str]:
    """The names of its protocols."""
    return sorted({stage["protocol"] for stage in definition()["stages"]})


def kinds() -> dict[str, dict[str, str]]:
    """The name of every class of Tiny ImageNet by its WordNet id, by kind."""
    return definition()["kinds"]


def request(methods: Sequence[str]) -> Request:
    """Those methods on the tiny backbone with their own recipes."""
    return Request(tuple(methods), precision=definition()["precision"])


def stages(asked: Request, seeds: Collection[int], wanted: Collection[str] | None = None) -> list[Stage]:
    """The benchmark in the order it runs; variants of a method that is not asked for are left out.

    Args:
        asked: Whose methods.
        seeds: Of every trial.
        wanted: Some of :func:`protocols`; None is all.

    Raises:
        UserError: For an unknown protocol or no seed.
    """
    wanted = protocols() if wanted is None else wanted
    for name in wanted:
        if name not in protocols():
            raise unknown("protocol", name, protocols())
    main = [_stage(s, seeds) for s in definition()["stages"] if s["protocol"] in wanted]
    return main + [
        _variant(v, settings, seeds)
        for v in definition()["variants"]
        if v["protocol"] in wanted and v["method"] in asked.methods
        for settings in v["settings"]
    ]


def _variant(fields: dict[str, Any], settings: Sequence[str], seeds: Collection[int]) -> Stage:
    method, on = fields["method"], fields["on"]
    trials = get_protocol(fields["protocol"]).trials(on, seeds, [definition()["shots"]])
    title = f"{method} with {' '.join(settings)}, {', '.join(on)}"
    return Stage(title, fields["protocol"], tuple(trials), (method, tuple(settings)))


def _stage(fields: dict[str, Any], seeds: Collection[int]) -> Stage:
    protocol, on = fields["protocol"], fields["on"]
    shots = fields.get("shots", definition()["shots"])
    trials = get_protocol(protocol).trials(on, seeds, [shots], fields.get("to", ()))
    to = f" to {', '.join(fields['to'])}" if "to" in fields else ""
    return Stage(f"{protocol}, {', '.join(on)}{to}", protocol, tuple(trials))


def outlooks(plans: Sequence[Plan], store: Store) -> tuple[list[Outlook], Outlook]:
    """What each stage has and lacks, and all of them, runs that several need counted once."""
    merged = {job.spec.address: job for plan in plans for job in plan.jobs}
    return [outlook(plan, store) for plan in plans], outlook(Plan(list(merged.values()), []), store)


def run_stages(
    plans: dict[Stage, Plan],
    asked: Request,
    out: Path,
    engine: Engine,
    say: Callable[[str], None],
    progress: GridProgress | None = None,
) -> dict[str, str]:
    """Runs stage after stage and writes the tables so far into ``out/tables`` after each.

    Args:
        plans: Of every stage.
        asked: What they were made from.
        out: The grid's folder.
        engine: Where to execute.
        say: Told what begins.
        progress: Told how each stage goes.

    Returns:
        The reason of every failure, by the run's label.
    """
    failed: dict[str, str] = {}
    for stage, plan in plans.items():
        say(f"{stage.title}: {len(plan.jobs)} runs")
        failed |= run_grid(plan, stage.request(asked), out, engine, progress=progress)
        write_tables(Store(out), asked, out / "tables")
    return failed


def write_tables(store: Store, asked: Request, folder: Path, command: str = "", prefix: str = "") -> None:
    """Writes ``PROTOCOL.md`` and ``PROTOCOL.csv`` of what a grid's folder has of the benchmark.

    Args:
        store: The grid's folder.
        asked: Decides which of its tables.
        folder: Where to.
        command: How to repeat it, for a heading with the time it took; none without.
        prefix: Of the files' names.
    """
    for conditions, results in grids(store, asked):
        protocol, found = results.protocol.name, tables(conditions, results)
        for suffix, form in FORMS.items():
            text = render(found, form)
            if command and form == "markdown":
                text = f"# Mini benchmark: {protocol}\n\n{_origin(results, command)}\n\n{text}"
            write_atomic(folder / f"{prefix}{protocol}.{suffix}", text)


def grids(store: Store, asked: Request) -> list[tuple[dict[str, Any], Results]]:
    """What a request has found, and under which conditions."""
    mine = {**asked.conditions(), "settings": list(asked.settings)}
    return [
        (conditions, Results(keys, store))
        for conditions, keys in store.grids()
        if conditions == mine and keys
    ]


def _origin(results: Results, command: str) -> str:
    runs, spent = _spent(results.found)
    return (
        f"From `{command}`: {runs} runs, {duration(spent)} of computing if one after the other, each on one "
        "CPU thread. What the datasets are and what came out: [mini.md](mini.md)."
    )


def _spent(found: dict[ResultKey, dict[str, Any] | None]) -> tuple[int, float]:
    """How many runs there are and their seconds, each training and each test counted once."""
    done = {key: result for key, result in found.items() if result}
    training = {key.run: result["training_seconds"] for key, result in done.items()}
    tests = {(key.run, key.test): result["seconds"] for key, result in done.items()}
    return len(training), sum(training.values()) + sum(tests.values())
