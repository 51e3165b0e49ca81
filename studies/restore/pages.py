"""The study of the mini benchmark: its tables, figures and claims from the finished grid."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

from restore_vlm.bench import Store
from restore_vlm.figures.drawing import STYLE, csv_text, save
from restore_vlm.figures.records import read_records
from restore_vlm.figures.registry import NAMES, write
from restore_vlm.figures.runs import FILE, read_runs, runs_of, write_runs
from restore_vlm.figures.shift import discrepancy_gain_of, gain_points
from restore_vlm.method import methods
from restore_vlm.runtime.files import read_text, write_atomic
from studies.restore import mini
from studies.restore.claims import Claim, judge

BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"
COMMAND = "python -m studies.restore grid --root ROOT --out OUT --seeds 1,2,3"


def regenerate(
    grid: Path, root: Path, docs: Path, done: Callable[[int, int], None] = lambda count, total: None
) -> list[Claim]:
    """Writes ``mini-PROTOCOL.md`` and ``.csv``, ``figures/``, ``runs.csv``, and all of :func:`rejudge`.

    Args:
        grid: The ``--out`` of ``python -m studies.restore grid``.
        root: Its datasets.
        docs: Where to.
        done: Told of the steps.

    Raises:
        UserError: If the grid lacks what a figure needs.
    """
    records, total = read_records([grid]), len(NAMES) + 2
    for count, name in enumerate(NAMES):
        done(count, total)
        write(name, records, docs / "figures", root)
    mini.write_tables(Store(grid), mini.request(methods()), docs, COMMAND, "mini-")
    done(total - 1, total)
    write_runs(runs_of(records), docs / FILE)
    claims = rejudge(docs)
    done(total, total)
    return claims


def rejudge(docs: Path) -> list[Claim]:
    """Computes the claims from ``runs.csv`` alone.

    Writes ``claims.csv``, the table in ``README.md`` and the figure of what they correlate.

    Args:
        docs: A folder with ``runs.csv``.

    Raises:
        UserError: If that cannot be read.
    """
    runs = read_runs(docs / FILE)
    claims = judge(runs)
    write_atomic(docs / "claims.csv", csv_text([c.row() for c in claims]))
    page = docs / "README.md"
    if page.is_file():
        write_atomic(page, with_table(read_text(page), claims))
    with matplotlib.rc_context(STYLE):
        save(discrepancy_gain_of(gain_points(runs)), docs / "figures", "discrepancy-gain")
    return claims


def with_table(page: str, claims: Sequence[Claim]) -> str:
    """A page with the table of claims between its markers."""
    lines = [
        "| claim | measured | expected | decided | estimate [95 % interval] | p (Holm) | here |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in claims:
        sign, p = "+" if c.expected > 0 else "-", "" if c.p is None else f"{c.p:.2f}"
        text = c.estimate.text if c.estimate else ""
        lines.append(f"| {c.claim} | {c.measured} | {sign} | {c.decided} | {text} | {p} | {c.verdict} |")
    table = "\n".join([BEGIN, *lines, END])
    return re.sub(f"{BEGIN}.*?{END}", lambda _: table, page, flags=re.DOTALL)
