"""``restore-vlm bench``: the published protocols over datasets, methods and seeds."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from restore_vlm.cli.options import Device, Precision, names, numbers, shots_per_class
from restore_vlm.errors import UserError

if TYPE_CHECKING:
    from restore_vlm.bench import DataRoot, Plan, Results, Store
    from restore_vlm.evaluation.protocol import Protocol, Trial


class Form(StrEnum):
    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"


class EngineName(StrEnum):
    local = "local"
    ray = "ray"


class Tracker(StrEnum):
    tensorboard = "tensorboard"
    mlflow = "mlflow"
    wandb = "wandb"


Root = Annotated[Path, typer.Option(help="Folder the datasets are in.")]
Datasets = Annotated[str, typer.Option(help="a,b,...: of the catalogue, or folders or manifests under ROOT.")]
Out = Annotated[Path, typer.Option(help="Folder of runs and tables; the same command goes on there.")]
Targets = Annotated[str | None, typer.Option(help="a,b,...: the published ones, or all under ROOT.")]
Methods = Annotated[str, typer.Option(help="a,b,...: methods or TOML files.")]
Seeds = Annotated[str, typer.Option(help="1,2,3")]
Shots = Annotated[str, typer.Option(help="Training images per class, or all.")]
Backbone = Annotated[str, typer.Option(help="As for train.")]
Recipe = Annotated[str, typer.Option(help="auto (by backbone, protocol and dataset), default, or a name.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="prompts.depth=6 for all methods with prompts, maple:prompts.depth=6 for one."
    ),
]
Engine = Annotated[EngineName, typer.Option(help="Processes of this machine, or a Ray cluster.")]
Address = Annotated[str | None, typer.Option(help="Of the Ray cluster; one is started by default.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default what fits.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of each run.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and compute nothing.")]
Track = Annotated[Tracker | None, typer.Option(help="Where to log finished runs, beside JSON lines.")]
Format = Annotated[Form, typer.Option("--format", help="Of the tables.")]
OutArgument = Annotated[Path, typer.Argument(help="The --out of finished commands.")]


class Commands(TyperGroup):
    """The commands of all protocols before the others; made when one is asked for, as they load PyTorch."""

    def list_commands(self, ctx: Any) -> list[str]:
        self._add_protocols()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._add_protocols()
        return super().get_command(ctx, cmd_name)

    def _add_protocols(self) -> None:
        from restore_vlm.evaluation.protocols import PROTOCOLS

        self.commands = {
            **{name: _command(protocol) for name, protocol in PROTOCOLS.items()},
            **self.commands,
        }


bench = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Run the published protocols and print their tables."
)


def _run(
    name: str,
    *,
    root: Root,
    datasets: Datasets,
    source: str,
    out: Out,
    targets: Targets = None,
    methods: Methods = "clip,maple,restore",
    seeds: Seeds = "1,2,3",
    shots: Shots,
    backbone: Backbone = "tiny",
    recipe: Recipe = "auto",
    settings: Settings = None,
    engine: Engine = EngineName.local,
    address: Address = None,
    workers: Workers = None,
    threads: Threads = None,
    precision: Precision = Precision.auto,
    device: Device = None,
    dry_run: DryRun = False,
    track: Track = None,
    form: Format = Form.terminal,
) -> None:
    """Runs a grid of the protocol of that name; the other parameters are the options of its command."""
    from restore_vlm.bench import DataRoot, Local, Ray, Request, Results, Store, make_plan, run_grid
    from restore_vlm.bench.trackers import Tracking
    from restore_vlm.evaluation.protocols import get_protocol
    from restore_vlm.terminal import err

    if engine is EngineName.local and address:
        raise UserError("--address is for --engine ray.")
    data = DataRoot(root, lambda text: err.print(f"[yellow]![/] {text}", highlight=False))
    trials = _trials(get_protocol(name), data, datasets or source, targets, seeds, shots)
    request = Request(
        tuple(names("methods", methods)), backbone, recipe, tuple(settings or ()), precision.value, device
    )
    with err.status("reading the datasets"):
        plan = make_plan(trials, request, data)
    store = Store(out)
    if dry_run:
        _outlook(plan, store)
        return
    tracking = Tracking(track.value, store) if track else None
    chosen = Local(workers, threads) if engine is EngineName.local else Ray(address, threads)
    failed = run_grid(plan, request, out, chosen, tracking)
    _print(request.conditions(), Results(plan.keys, store), form)
    if failed:
        err.print(f"{len(failed)} of {len(plan.jobs)} runs failed; the same command tries them again.")
        raise typer.Exit(1)


def _command(protocol: Protocol) -> Any:
    """The command of a protocol: :func:`_run` with the options that concern it."""

    def run(**options: Any) -> None:
        _run(protocol.name, **({"datasets": "", "source": "", "targets": None} | options))

    run.__signature__ = inspect.Signature(list(_options(protocol)))  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command(protocol.name, help=protocol.summary)(run)
    return typer.main.get_command(app)


def _options(protocol: Protocol) -> Iterator[inspect.Parameter]:
    _, *options = inspect.signature(_run, eval_str=True).parameters.values()
    others = ("datasets",) if protocol.transfer else ("source", "targets")
    for option in options:
        if option.name == "source" and protocol.transfer:
            yield option.replace(annotation=Annotated[str, typer.Option(help=protocol.transfer.source)])
        elif option.name == "shots":
            default = ",".join(map(str, protocol.shots))
            known = Annotated[str, typer.Option(help=default)] if protocol.varies_shots else Shots
            yield option.replace(default=default, annotation=known)
        elif option.name not in others:
            yield option


def _trials(
    protocol: Protocol, data: DataRoot, trained: str, targets: str | None, seeds: str, shots: str
) -> list[Trial]:
    transfer = protocol.transfer
    each = numbers("shots", shots) if protocol.varies_shots else [shots_per_class(shots)]
    if transfer is None:
        return protocol.trials(names("datasets", trained), numbers("seeds", seeds), each)

    def of(source: str) -> list[str]:
        """The targets named; else the published ones of ImageNet, or whatever else lies under the root."""
        if targets is not None:
            return names("targets", targets)
        others = [name for name in data.names() if name != source]
        return list(transfer.targets) if source == "imagenet" else others

    return [
        trial
        for source in names("source", trained)
        for trial in protocol.trials([source], numbers("seeds", seeds), each, of(source))
    ]


@bench.command()
def table(out: OutArgument, form: Format = Form.terminal) -> None:
    """Print the tables of all runs finished in OUT."""
    for conditions, results in _grids(out, whole=form is Form.csv):
        _print(conditions, results, form)


@bench.command()
def compare(
    out: OutArgument,
    first: Annotated[str, typer.Argument(help="A method.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    protocol: Annotated[str | None, typer.Option(help="One of those in OUT; all by default.")] = None,
    measure: Annotated[str | None, typer.Option(help="HM, base or novel; elsewhere accuracy.")] = None,
) -> None:
    """Compare two methods pair by pair over datasets and seeds."""
    from restore_vlm.bench import compare_methods
    from restore_vlm.bench.compare import show
    from restore_vlm.errors import unknown

    grids = [results for _, results in _grids(out, whole=True)]
    known = list(dict.fromkeys(results.protocol.name for results in grids))
    if protocol is not None and protocol not in known:
        raise unknown(f"protocol in {out}", protocol, known)
    for results in grids:
        if protocol in (None, results.protocol.name):
            show(compare_methods(results, first, second, measure), first, second, results.protocol.name)


def _outlook(plan: Plan, store: Store) -> None:
    from restore_vlm.bench import outlook
    from restore_vlm.bench.grid import duration
    from restore_vlm.terminal import out as console
    from restore_vlm.terminal import table as show

    view = outlook(plan, store)
    places = dict.fromkeys([*view.done, *view.missing])
    rows = [[m, d, str(view.done[m, d]), str(view.missing[m, d])] for m, d in places]
    total = [str(view.done.total()), str(view.missing.total())]
    show("Runs", "method", "dataset", "done", "to compute", rows=[*rows, ["all", "", *total]])
    time = "unknown until each method has a finished run" if view.seconds is None else duration(view.seconds)
    console.print(f"Time, one run after the other: {time}", highlight=False)


def _grids(out: Path, whole: bool = False) -> list[tuple[dict[str, Any], Results]]:
    """The grids of a folder; damaged results are refused where they must be ``whole``, else noted below."""
    from restore_vlm.bench import Results, Store

    store = Store(out)
    if whole:
        for _, keys in store.grids():
            for key in keys:
                store.result(key)
    return [(conditions, Results(keys, store)) for conditions, keys in store.grids() if keys]


def _print(conditions: dict[str, Any], results: Results, form: Form) -> None:
    from restore_vlm.bench import render, tables

    print(render(tables(conditions, results), form.value), end="")
