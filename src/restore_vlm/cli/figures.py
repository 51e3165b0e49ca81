"""``restore-vlm figures``: what finished runs say, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from restore_vlm.cli.options import names
from restore_vlm.errors import UserError, unknown

Paths = Annotated[
    list[Path], typer.Argument(help="The --out of restore-vlm bench, or runs of restore-vlm train.")
]
Out = Annotated[Path, typer.Option(help="Folder for NAME.png and NAME.csv.")]
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
    from restore_vlm.figures import read_records, registry
    from restore_vlm.terminal import err

    wanted = registry.NAMES if only is None else _chosen(only)
    records = read_records(paths)
    drawn = 0
    for name in wanted:
        try:
            figure = registry.write(name, records, out, root, dataset, umap)
        except UserError as error:
            if only is not None:
                raise
            err.print(f"[yellow]![/] {name} left out: {error}", highlight=False)
            continue
        drawn += 1
        err.print(f"[bold]{out / name}.png[/]: {figure.numbers.caption}", highlight=False)
    if not drawn:
        raise UserError("Nothing could be drawn from these runs; the reasons are above.")


def _chosen(only: str) -> list[str]:
    from restore_vlm.figures.registry import NAMES

    chosen = names("only", only)
    for name in chosen:
        if name not in NAMES:
            raise unknown("figure", name, NAMES)
    return chosen
