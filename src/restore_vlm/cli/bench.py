"""``restore-vlm bench``: the published protocols over datasets, methods and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from restore_vlm.cli.options import Device, Precision, names, numbers, shots_per_class
from restore_vlm.errors import UserError

if TYPE_CHECKING:
    from restore_vlm.bench import Board, Plan, Request, Store
    from restore_vlm.evaluation.protocols import Trial

bench = typer.Typer(no_args_is_help=True, help="Run the published protocols and print their tables.")


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
Out = Annotated[Path, typer.Option(help="Folder of runs and tables; the same command goes on there.")]
Datasets = Annotated[str, typer.Option(help="a,b,...: of the catalogue, or folders or manifests under ROOT.")]
Methods = Annotated[str, typer.Option(help="a,b,...: methods or TOML files.")]
Seeds = Annotated[str, typer.Option(help="1,2,3")]
Shots = Annotated[str, typer.Option(help="Training images per class, or all.")]
Targets = Annotated[str | None, typer.Option(help="a,b,...: the published ones, or all under ROOT.")]
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


@bench.command("base-to-novel")
def base_to_novel(
    root: Root,
    datasets: Datasets,
    out: Out,
    methods: Methods = "clip,maple,restore",
    seeds: Seeds = "1,2,3",
    shots: Shots = "16",
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
    """Train on half of the classes, test on both halves."""
    from restore_vlm.evaluation import protocols

    trials = protocols.base_to_novel(
        names("datasets", datasets), numbers("seeds", seeds), shots_per_class(shots)
    )
    request = _request(methods, backbone, recipe, settings, precision, device)
    _grid(trials, request, root, out, (engine, address, workers, threads), dry_run, track, form)


@bench.command("cross-dataset")
def cross_dataset(
    root: Root,
    source: Annotated[str, typer.Option(help="Dataset trained on.")],
    out: Out,
    targets: Targets = None,
    methods: Methods = "clip,maple,restore",
    seeds: Seeds = "1,2,3",
    shots: Shots = "16",
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
    """Train on all classes of one dataset, test on others with their own classes."""
    from restore_vlm.evaluation import protocols

    chosen = _targets(targets, source, root, protocols.TARGETS)
    trials = protocols.cross_dataset(source, chosen, numbers("seeds", seeds), shots_per_class(shots))
    request = _request(methods, backbone, recipe, settings, precision, device)
    _grid(trials, request, root, out, (engine, address, workers, threads), dry_run, track, form)


@bench.command("domain-generalisation")
def domain_generalisation(
    root: Root,
    source: Annotated[str, typer.Option(help="Domains trained on, one after the other: a,b,...")],
    out: Out,
    targets: Targets = None,
    methods: Methods = "clip,maple,restore",
    seeds: Seeds = "1,2,3",
    shots: Shots = "16",
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
    """Train on one domain, test on its shifted variants; ROOT may be a folder of domains."""
    from restore_vlm.evaluation import protocols

    trials = [
        trial
        for one in names("source", source)
        for trial in protocols.domain_generalisation(
            one,
            _targets(targets, one, root, protocols.VARIANTS),
            numbers("seeds", seeds),
            shots_per_class(shots),
        )
    ]
    request = _request(methods, backbone, recipe, settings, precision, device)
    _grid(trials, request, root, out, (engine, address, workers, threads), dry_run, track, form)


@bench.command("few-shot")
def few_shot(
    root: Root,
    datasets: Datasets,
    out: Out,
    methods: Methods = "clip,maple,restore",
    seeds: Seeds = "1,2,3",
    shots: Annotated[str, typer.Option(help="1,2,4,8,16")] = "1,2,4,8,16",
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
    """Train and test on all classes with more and more images."""
    from restore_vlm.evaluation import protocols

    trials = protocols.few_shot(names("datasets", datasets), numbers("seeds", seeds), numbers("shots", shots))
    request = _request(methods, backbone, recipe, settings, precision, device)
    _grid(trials, request, root, out, (engine, address, workers, threads), dry_run, track, form)


@bench.command()
def table(out: OutArgument, form: Format = Form.terminal) -> None:
    """Print the tables of all runs finished in OUT."""
    for common, board in _boards(out, whole=form is Form.csv):
        _print(common, board, form)


@bench.command()
def compare(
    out: OutArgument,
    first: Annotated[str, typer.Argument(help="A method.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    protocol: Annotated[str | None, typer.Option(help="One of those in OUT; all by default.")] = None,
    measure: Annotated[str | None, typer.Option(help="HM, base or novel; elsewhere accuracy.")] = None,
) -> None:
    """Compare two methods pair by pair over datasets and seeds."""
    from restore_vlm.bench import compare as paired
    from restore_vlm.bench.compare import show
    from restore_vlm.errors import unknown

    boards = [board for _, board in _boards(out, whole=True)]
    known = list(dict.fromkeys(board.cells[0].protocol for board in boards))
    if protocol is not None and protocol not in known:
        raise unknown(f"protocol in {out}", protocol, known)
    for board in boards:
        if protocol in (None, board.cells[0].protocol):
            show(paired(board, first, second, measure), first, second, board.cells[0].protocol)


def _grid(
    trials: Sequence[Trial], request: Request, root: Path, out: Path,
    place: tuple[EngineName, str | None, int | None, int | None], dry_run: bool, track: Tracker | None,
    form: Form,
) -> None:  # fmt: skip
    from restore_vlm.bench import Board, Local, Ray, Shelf, Store, make_plan, run_grid
    from restore_vlm.bench.trackers import Tracking
    from restore_vlm.cli.grid_bars import GridBars
    from restore_vlm.terminal import bars, err

    engine, address, workers, threads = place
    if engine is EngineName.local and address:
        raise UserError("--address is for --engine ray.")
    shelf = Shelf(root, lambda text: err.print(f"[yellow]![/] {text}", highlight=False))
    with err.status("reading the datasets"):
        plan = make_plan(trials, request, shelf)
    store = Store(out)
    if dry_run:
        _outlook(plan, store)
        return
    tracking = Tracking(track.value, store) if track else None
    chosen = Local(workers, threads) if engine is EngineName.local else Ray(address, threads)
    with bars() as display:
        failed = run_grid(plan, request, out, chosen, tracking, GridBars(display))
    _print(request.common(), Board(plan.cells, store), form)
    if failed:
        err.print(f"{len(failed)} of {len(plan.jobs)} runs failed; the same command tries them again.")
        raise typer.Exit(1)


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


def _boards(out: Path, whole: bool = False) -> list[tuple[dict, Board]]:
    """The tables of a grid; damaged results are refused where they must be ``whole``, else noted below."""
    from restore_vlm.bench import Board, Store

    store = Store(out)
    if whole:
        for _, cells in store.tables():
            for cell in cells:
                store.result(cell)
    return [(common, Board(cells, store)) for common, cells in store.tables() if cells]


def _print(common: dict, board: Board, form: Form) -> None:
    from restore_vlm.bench import render, tables

    print(render(tables(common, board), form.value), end="")


def _request(
    methods: str, backbone: str, recipe: str, settings: list[str] | None, precision: Precision,
    device: str | None,
) -> Request:  # fmt: skip
    from restore_vlm.bench import Request

    return Request(
        tuple(names("methods", methods)), backbone, recipe, tuple(settings or ()), precision.value, device
    )


def _targets(text: str | None, source: str, root: Path, published: Sequence[str]) -> list[str]:
    """Those named; else the published ones of ImageNet, or whatever else lies under the root."""
    from restore_vlm.bench import Shelf

    if text is not None:
        return names("targets", text)
    return list(published) if source == "imagenet" else [n for n in Shelf(root).names() if n != source]
