"""``restore-vlm figures`` and ``restore-vlm study``: what finished runs say, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from restore_vlm.errors import UserError, unknown

if TYPE_CHECKING:
    from studies.restore.claims import Claim

Paths = Annotated[
    list[Path], typer.Argument(help="The --out of restore-vlm bench, or runs of restore-vlm train.")
]
Out = Annotated[Path, typer.Option(help="Folder for NAME.png, NAME.svg and NAME.csv.")]
Only = Annotated[str | None, typer.Option(help="a,b,...: some of the figures; all that can be drawn.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the datasets, for the map of embeddings.")]
Dataset = Annotated[str | None, typer.Option(help="Of the map of embeddings; the first by default.")]
Umap = Annotated[bool, typer.Option("--umap", help="UMAP in place of t-SNE.")]


def figures(
    paths: Paths,
    out: Out,
    only: Only = None,
    root: Root = None,
    dataset: Dataset = None,
    umap: Umap = False,
) -> None:
    """Draw the figures of feature shift from finished runs."""
    from restore_vlm.figures import read_records
    from restore_vlm.figures import registry as study
    from restore_vlm.terminal import err

    names = study.NAMES if only is None else _names(only)
    records = read_records(paths)
    drawn = 0
    for name in names:
        try:
            drawing = study.write(name, records, out, root, dataset, umap)
        except UserError as error:
            if only is not None:
                raise
            err.print(f"[yellow]![/] {name} left out: {error}", highlight=False)
            continue
        drawn += 1
        err.print(f"[bold]{out / name}.png[/]: {drawing.caption}", highlight=False)
    if not drawn:
        raise UserError("Nothing could be drawn from these runs; the reasons are above.")


def _names(only: str) -> list[str]:
    from restore_vlm.figures.registry import NAMES

    names = [name.strip() for name in only.split(",") if name.strip()]
    if not names:
        raise UserError(f"--only names nothing; figures are {', '.join(NAMES)}.")
    for name in names:
        if name not in NAMES:
            raise unknown("figure", name, NAMES)
    return names


study = typer.Typer(no_args_is_help=True, help="Regenerate a study from its finished grid.")


Docs = Annotated[Path, typer.Option(help="Where tables, figures and claims go.")]


@study.command()
def mini(
    grid: Annotated[Path, typer.Option(help="The --out of restore-vlm bench mini.")],
    root: Annotated[Path, typer.Option(help="What scripts/make_mini_benchmark.py made.")],
    docs: Docs,
) -> None:
    """Regenerate every table, figure and tested claim of the mini benchmark."""
    from studies.restore.pages import regenerate

    from restore_vlm.terminal import bars

    with bars() as display:
        found = regenerate(grid, root, docs, lambda done, total: display.move("study", done, total))
    _show(found)


@study.command()
def claims(docs: Docs) -> None:
    """Compute the tested claims anew from the runs.csv in DOCS alone."""
    from studies.restore.pages import rejudge

    _show(rejudge(docs))


def _show(found: Sequence[Claim]) -> None:
    from restore_vlm.terminal import table

    rows = [[c.claim, c.measured, c.estimate.text if c.estimate else "", c.verdict] for c in found]
    table("Claims", "claim", "measured", "estimate", "here", rows=rows, words=True)
