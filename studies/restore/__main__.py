"""The study of RESTORE's claims: run its grid, then write its tables, figures and claims.

python -m studies.restore grid --root ROOT --out OUT
python -m studies.restore write --grid OUT --root ROOT --docs docs/study
python -m studies.restore claims --docs docs/study
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from restore_vlm.cli import run_app
from restore_vlm.cli.options import names, numbers

if TYPE_CHECKING:
    from restore_vlm.bench.grid import Outlook
    from studies.restore.claims import Claim

Root = Annotated[Path, typer.Option(help="What studies.restore.datasets made.")]
Out = Annotated[Path, typer.Option(help="Folder of runs and tables; the same command goes on there.")]
Methods = Annotated[str, typer.Option(help="all, or a,b,...: methods or TOML files.")]
Seeds = Annotated[str, typer.Option(help="1,2,3")]
Protocols = Annotated[str, typer.Option(help="all, or a,b,...: some of the benchmark.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Runs at a time, of a thread each; as many as cores.")
]
Docs = Annotated[Path | None, typer.Option(help="Write the tables here too, with command and time.")]
StudyDocs = Annotated[Path, typer.Option(help="Where tables, figures and claims go.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and compute nothing.")]


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def grid(
    root: Root,
    out: Out,
    methods: Methods = "all",
    seeds: Seeds = "1,2,3",
    protocols: Protocols = "all",
    workers: Workers = None,
    docs: Docs = None,
    dry_run: DryRun = False,
) -> None:
    """Run every method by three protocols on small real datasets with the tiny CLIP (hours on two cores)."""
    from restore_vlm.bench import DataRoot, Local, Store, render, tables
    from restore_vlm.cli.grid_bars import GridBars
    from restore_vlm.method import methods as bundled
    from restore_vlm.terminal import bars, err
    from studies.restore import mini as benchmark

    chosen = benchmark.protocols() if protocols == "all" else names("protocols", protocols)
    asked = benchmark.request(bundled() if methods == "all" else names("methods", methods))
    data = DataRoot(root, lambda text: err.print(f"[yellow]![/] {text}", highlight=False))
    with err.status("reading the datasets"):
        stages = benchmark.stages(asked, numbers("seeds", seeds), chosen)
        plans = {stage: stage.plan(asked, data) for stage in stages}
    if dry_run:
        _show(*benchmark.outlooks(list(plans.values()), Store(out)), [s.title for s in stages])
        return
    with bars() as display:
        failed = benchmark.run_stages(
            plans, asked, out, Local(workers, 1), lambda text: err.print(text), GridBars(display)
        )
    store = Store(out)
    for conditions, results in benchmark.grids(store, asked):
        print(render(tables(conditions, results), "terminal"), end="")
    if docs is not None:
        said = {"methods": methods, "seeds": seeds, "protocols": protocols}
        options = " ".join(f"--{name} {value}" for name, value in said.items() if value != "all")
        command = f"python -m studies.restore grid --root ROOT --out OUT {options}"
        benchmark.write_tables(store, asked, docs, command, "mini-")
    if failed:
        err.print(f"{len(failed)} runs failed; the same command tries them again.")
        raise typer.Exit(1)


def _show(views: list[Outlook], total: Outlook, titles: list[str]) -> None:
    from restore_vlm.bench.grid import duration
    from restore_vlm.terminal import table

    rows = [
        [title, str(view.done.total()), str(view.missing.total()),
         "?" if view.seconds is None else duration(view.seconds)]
        for title, view in zip([*titles, "all"], [*views, total], strict=True)
    ]  # fmt: skip
    table("Runs", "stage", "done", "to compute", "time, one after the other", rows=rows)


@app.command()
def write(
    grid: Annotated[Path, typer.Option(help="The --out of the grid.")],
    root: Annotated[Path, typer.Option(help="What studies.restore.datasets made.")],
    docs: StudyDocs,
) -> None:
    """Write every table, figure and tested claim from the finished grid."""
    from restore_vlm.terminal import bars
    from studies.restore.pages import regenerate

    with bars() as display:
        found = regenerate(grid, root, docs, lambda done, total: display.move("study", done, total))
    _show_claims(found)


@app.command()
def claims(docs: StudyDocs) -> None:
    """Compute the tested claims anew from the runs.csv in DOCS alone."""
    from studies.restore.pages import rejudge

    _show_claims(rejudge(docs))


def _show_claims(found: Sequence[Claim]) -> None:
    from restore_vlm.terminal import table

    rows = [[c.claim, c.measured, c.estimate.text if c.estimate else "", c.verdict] for c in found]
    table("Claims", "claim", "measured", "estimate", "here", rows=rows, words=True)


if __name__ == "__main__":
    run_app(app)
