"""How figures look and are written: PNG, SVG, and the numbers drawn as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from restore_vlm.training import write_atomic

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
"""Okabe and Ito's, told apart by colour-blind people."""
MARKERS = "osD^vP*X<>d"
HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++", "oo")
HALF_COLOURS = {"base": COLOURS[0], "novel": COLOURS[1], "HM": COLOURS[7]}
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "legend.frameon": False,
    "svg.hashsalt": "restore-vlm",
    "svg.fonttype": "none",
}


@dataclass
class Drawing:
    """A figure and the numbers in it.

    Attributes:
        figure: To be written.
        rows: One per thing drawn; all with the same keys.
        caption: One sentence on what is shown, error bars included.
        summary: Numbers of another kind that the figure states; written as NAME-summary.csv.
    """

    figure: Figure
    rows: list[dict[str, Any]]
    caption: str
    summary: list[dict[str, Any]] = field(default_factory=list)


def look(place: int) -> dict[str, Any]:
    """Marker and colour of the method at a place of a list; 88 differ, 22 of them without colour."""
    colour = COLOURS[place % len(COLOURS)]
    hollow = place // len(MARKERS) % 2 == 1
    return {
        "marker": MARKERS[place % len(MARKERS)], "edgecolors": colour,
        "facecolors": "none" if hollow else colour,
    }  # fmt: skip


def canvas(width: float, height: float) -> Figure:
    """An empty figure, inches; needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Writes NAME.png, NAME.svg and NAME.csv, and NAME-summary.csv if there is one.

    Raises:
        UserError: If the folder cannot be written.
    """
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        drawing.figure.savefig(png, dpi=130, format="png", metadata={"Software": None})
        FigureCanvasSVG(drawing.figure).print_svg(svg, metadata={"Date": None, "Creator": None})
    contents: dict[str, bytes | str] = {
        f"{name}.png": png.getvalue(), f"{name}.svg": svg.getvalue(), f"{name}.csv": csv_text(drawing.rows),
    }  # fmt: skip
    if drawing.summary:
        contents[f"{name}-summary.csv"] = csv_text(drawing.summary)
    for file, content in contents.items():
        write_atomic(folder / file, content)
    return [folder / file for file in contents]


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys, numbers to six digits, None as an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def bars_text(seeds: int) -> str:
    """What error bars are, for a caption."""
    return (
        f"error bars: standard deviation over {seeds} seeds" if seeds > 1 else "one seed, hence no error bars"
    )
