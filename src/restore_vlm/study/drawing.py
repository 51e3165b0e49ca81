"""How figures look and are written: PNG, SVG, and the numbers drawn as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from restore_vlm.training import write_atomic

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
"""Okabe and Ito's, told apart by colour-blind people."""
MARKERS = "osD^vP*XhpdH<>8s"
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
    """

    figure: Figure
    rows: list[dict[str, Any]]
    caption: str


def canvas(width: float, height: float) -> Figure:
    """An empty figure, inches; needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Writes NAME.png, NAME.svg and NAME.csv.

    Raises:
        UserError: If the folder cannot be written.
    """
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        drawing.figure.savefig(png, dpi=130, format="png", metadata={"Software": None})
        FigureCanvasSVG(drawing.figure).print_svg(svg, metadata={"Date": None, "Creator": None})
    contents: dict[str, bytes | str] = {
        "png": png.getvalue(), "svg": svg.getvalue(), "csv": csv_text(drawing.rows),
    }  # fmt: skip
    for suffix, content in contents.items():
        write_atomic(folder / f"{name}.{suffix}", content)
    return [folder / f"{name}.{suffix}" for suffix in contents]


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
