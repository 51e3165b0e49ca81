"""What a person sees in the terminal: sentences, bars with rate and time left, tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

out = Console()
err = Console(stderr=True)


class RateColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s", style="dim")


class Bars:
    """Progress bars by name, made when first moved.

    Args:
        progress: The display they live in.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress, self.tasks = progress, {}  # type: ignore[var-annotated]

    def move(self, name: str, done: int, total: int, note: str = "") -> None:
        """Sets a bar to ``done`` of ``total``."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total, note="")
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)

    def drop(self, name: str) -> None:
        """Takes a bar away, if there is one of that name."""
        if name in self.tasks:
            self.progress.remove_task(self.tasks.pop(name))

    def say(self, text: str) -> None:
        """Prints a sentence above the bars."""
        self.progress.console.print(f"[yellow]![/] {text}", highlight=False)


@contextmanager
def bars() -> Iterator[Bars]:
    """A live display of bars on the error stream."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=err, refresh_per_second=5) as progress:
        yield Bars(progress)


def table(
    title: str, *columns: str, rows: list[list[str]], marked: int | None = None, words: bool = False
) -> None:
    """Prints a table: row ``marked`` bold, columns but the first right-aligned unless they are ``words``."""
    grid = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        grid.add_column(column, justify="left" if words or i == 0 else "right")
    for i, row in enumerate(rows):
        grid.add_row(*row, style="bold" if i == marked else None)
    out.print(grid)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
