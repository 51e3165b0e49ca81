"""``restore-vlm datasets``: what is there, whether it is whole, and how to get it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from restore_vlm.errors import UserError

if TYPE_CHECKING:
    from restore_vlm.data.catalogue import Checked

app = typer.Typer(
    help="The 15 datasets of the benchmark: list, check and fetch them.", pretty_exceptions_enable=False
)

Root = Annotated[Path, typer.Option(help="The folder that holds the datasets' folders.")]


@app.callback(invoke_without_command=True)
def datasets(
    context: typer.Context,
    root: Annotated[Path | None, typer.Option(help="Look what is found below this folder.")] = None,
) -> None:
    """List the datasets, and what is found of them under a root."""
    if context.invoked_subcommand is not None:
        if root is not None:
            raise UserError(f"Give --root after {context.invoked_subcommand}, not before it.")
        return
    from restore_vlm.data.catalogue import DATASETS, find
    from restore_vlm.terminal import table

    if root is not None:
        states = find(root)
        rows = [
            [name, f"{state.state}{f' ({state.detail})' if state.detail else ''}"]
            for name, state in states.items()
        ]
        table(f"Datasets in {root}", "name", "found", rows=rows)
        return
    rows = []
    for name, entry in DATASETS.items():
        c = entry.counts
        parts = " / ".join(f"{n:,}" if n else "-" for n in (c.train, c.val, c.test))
        rows.append([name, entry.folder, f"{c.classes:,}", parts])
    table("Datasets", "name", "folder", "classes", "train / val / test", rows=rows)


@app.command()
def check(
    root: Annotated[Path, typer.Argument(help="The folder that holds the datasets' folders.")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="One dataset; again for more. All that are there by default.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not open the images.")] = False,
) -> None:
    """Compare datasets with what was published, and look at every image."""
    from restore_vlm.data.catalogue import check_dataset, find
    from restore_vlm.terminal import bars

    names = dataset or [name for name, state in find(root).items() if state.state != "absent"]
    if not names:
        raise UserError(
            f"None of the datasets is in {root}; give the folder that holds their folders "
            "(see: restore-vlm datasets)."
        )
    failed = False
    for name in names:
        with bars() as display:
            checked = check_dataset(name, root, not quick, partial(display.move, name))
        _report(checked)
        failed = failed or bool(checked.defects)
    if failed:
        raise typer.Exit(2)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A dataset (see: restore-vlm datasets).")],
    root: Root,
    again: Annotated[bool, typer.Option("--again", help="Get also what is there, and replace it.")] = False,
    how: Annotated[bool, typer.Option("--how", help="Say how to get it by hand; download nothing.")] = False,
) -> None:
    """Download a dataset from its publisher, or say how to get it."""
    from restore_vlm.data.catalogue import dataset_entry
    from restore_vlm.data.catalogue import fetch as get
    from restore_vlm.terminal import bars, err

    entry = dataset_entry(name)
    size = f" About {entry.size}." if entry.size else ""
    err.print(f"{entry.title}: {entry.home}. Licence: {entry.licence}.{size}", highlight=False, markup=False)
    if entry.downloads and not how:
        with bars() as display:
            get(
                entry.name, root, again, display.say,
                lambda done, total: display.move("megabytes", done >> 20, max(total, done) >> 20),
            )  # fmt: skip
        err.print(f"Next: restore-vlm datasets check {root} --dataset {entry.name}", highlight=False)
        return
    if not how:
        print(f"{entry.title} has to be fetched by hand:")
    for number, step in enumerate(entry.instructions(root), start=1):
        print(f"{number}. {step}")


def _report(checked: Checked) -> None:
    entry = checked.entry
    verdict = f"{len(checked.defects)} defect(s)" if checked.defects else f"good, {checked.images:,} images"
    print(f"{entry.title}: {verdict}")
    for text in checked.defects:
        print(f"  - {text}")
    for text in checked.notes:
        print(f"  (note) {text}")
