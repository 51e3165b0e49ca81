"""A table as terminal text, Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table as Grid

from restore_vlm.bench.scores import DIGITS, Score
from restore_vlm.bench.tables import Table
from restore_vlm.errors import unknown

TEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"})


def render(tables: Sequence[Table], form: str) -> str:
    """All tables in one of :data:`FORMS`.

    Raises:
        UserError: For another form.
    """
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    if form == "csv":
        return _csv(tables)
    return "\n\n".join(FORMS[form](table) for table in tables) + "\n"


def text(score: Score, plus_minus: str = " ± ") -> str:
    """A score as printed; what is not done says so."""
    if score.mean is None:
        return "-"
    spread = "" if score.std is None else f"{plus_minus}{score.std:.{DIGITS}f}"
    part = "" if score.complete else f" ({score.done}/{score.seeds})"
    return f"{score.mean:.{DIGITS}f}{spread}{part}"


def _cells(table: Table, strong: str, plain: Callable[[Score], str]) -> list[list[str]]:
    top = [table.best(i) for i in range(len(table.columns))]
    return [
        [strong.format(plain(s)) if r in top[c] else plain(s) for c, s in enumerate(row.scores)]
        for r, row in enumerate(table.rows)
    ]


def _terminal(table: Table) -> str:
    grid = Grid(title=table.title, title_justify="left", title_style="bold")
    grid.add_column("method")
    for column in table.columns:
        grid.add_column(column, justify="right")
    for row, cells in zip(table.rows, _cells(table, "[bold]{}[/]", text), strict=True):
        grid.add_row(row.label, *cells, style="dim" if row.published else None)
    console = Console()
    with console.capture() as captured:
        console.print(grid)
        for note in table.notes:
            console.print(note, style="dim", highlight=False, markup=False)
    return captured.get().rstrip()


def _markdown(table: Table) -> str:
    lines = [
        f"**{table.title}**",
        "",
        _bar(["method", *table.columns]),
        _bar(["---", *["---:"] * len(table.columns)]),
        *(
            _bar([row.label, *cells])
            for row, cells in zip(table.rows, _cells(table, "**{}**", text), strict=True)
        ),
    ]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)])


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _latex(table: Table) -> str:
    def plain(score: Score) -> str:
        return text(score, r" {\scriptsize$\pm$") + ("}" if score.std is not None else "")

    rows = [
        " & ".join([row.label.translate(TEX), *cells]) + r" \\"
        for row, cells in zip(table.rows, _cells(table, r"\textbf{{{}}}", plain), strict=True)
    ]
    own = sum(not row.published for row in table.rows)
    rules = rows[:own] + ([r"\midrule", *rows[own:]] if rows[own:] else [])
    head = " & ".join(["method", *(c.translate(TEX) for c in table.columns)]) + r" \\"
    return "\n".join(
        [
            f"% {table.title}",
            r"\begin{tabular}{l" + "r" * len(table.columns) + "}",
            r"\toprule", head, r"\midrule", *rules, r"\bottomrule",
            r"\end{tabular}",
            *(f"% {note}" for note in table.notes),
        ]
    )  # fmt: skip


def _csv(tables: Sequence[Table]) -> str:
    """One line per score, in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "method", "column", "mean", "std", "done", "seeds", "best", "published"])
    for table in tables:
        for c, column in enumerate(table.columns):
            top = table.best(c)
            for r, row in enumerate(table.rows):
                s = row.scores[c]
                numbers = ["" if n is None else repr(n) for n in (s.mean, s.std)]
                flags = [int(r in top), int(row.published)]
                writer.writerow([table.title, row.label, column, *numbers, s.done, s.seeds, *flags])
    return out.getvalue()


FORMS: dict[str, Callable[[Table], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "latex": _latex,
    "csv": lambda table: _csv([table]),
}
