"""A figure: its numbers as a table and Altair charts of them, written as PNG and CSV or put on a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from PIL import Image

from restore_vlm.errors import UserError
from restore_vlm.figures.style import VARIABLES, config
from restore_vlm.runtime.files import parse_json, write_atomic

Rows = list[dict[str, Any]]
ROWS = "rows"
FONT = "Liberation Sans"
"""Comes with vl-convert, so that pictures are the same on every machine."""
SCALE = 2.0
"""Pixels of a PNG for each unit of a chart."""


@dataclass(frozen=True)
class Numbers:
    """What a figure draws.

    Attributes:
        rows: One row for each thing drawn, all with the same columns; NAME.csv.
        caption: What is shown in one or a few sentences, error bars included.
        summary: Numbers of another kind that the figure states; NAME-summary.csv where there are any.
    """

    rows: Rows
    caption: str
    summary: Rows = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One chart of a figure.

    Attributes:
        title: The heading.
        chart: An Altair chart that reads :func:`rows_chart`, without size and configuration.
        rows: What it reads.
        subtitle: Lines below the heading.
        width: In a PNG, in pixels of a screen; on a page charts are as wide as there is room.
        height: Likewise; either may be that of each step of a discrete axis.
    """

    title: str
    chart: Any
    rows: Rows
    subtitle: tuple[str, ...] = ()
    width: int | alt.Step = 330
    height: int | alt.Step = 250

    def page_spec(self, description: str) -> dict[str, Any]:
        """The Vega-Lite specification for a page: its colours are CSS variables, its rows left out."""
        spec = self._sized("container") | {
            "config": config("system-ui, sans-serif", "transparent", legends=False),
            "autosize": {"type": "fit-x", "contains": "padding"},
            "description": f"{self.title}. {description}",
        }
        text = json.dumps(spec)
        for colour, variable in VARIABLES.items():
            text = text.replace(f'"{colour}"', f'"var({variable})"')
        return parse_json(text)

    def print_spec(self, place: int) -> dict[str, Any]:
        """The Vega-Lite specification as a part of a picture, reading the rows named after its place."""
        title = {"text": self.title, "subtitle": list(self.subtitle)}
        own, name = json.dumps(self._sized(self.width) | {"title": title}), f"{ROWS}{place}"
        return parse_json(own.replace(f'"name": "{ROWS}"', f'"name": "{name}"'))

    def _sized(self, width: int | str | alt.Step) -> dict[str, Any]:
        spec = self.chart.properties(width=width, height=self.height).to_dict()
        return {key: value for key, value in spec.items() if key not in ("config", "$schema")}


@dataclass(frozen=True)
class Figure:
    """A figure that can be written, or shown on a page.

    Attributes:
        name: What its files are called.
        numbers: What it draws.
        panels: Its charts, in order.
        columns: Panels side by side in a picture.
        one_legend: Whether panels share their legend in a picture.
    """

    name: str
    numbers: Numbers
    panels: Sequence[Panel]
    columns: int = 2
    one_legend: bool = True

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification of the whole picture, rows included."""
        legends = dict.fromkeys(("color", "shape"), "shared" if self.one_legend else "independent")
        return {
            "$schema": alt.SCHEMA_URL,
            "config": config(FONT, "white", legends=True),
            "padding": 12,
            "columns": self.columns,
            "spacing": 30,
            "resolve": {"scale": {**legends, "xOffset": "independent", "yOffset": "independent"}},
            "concat": [panel.print_spec(i) for i, panel in enumerate(self.panels)],
            "datasets": {f"{ROWS}{i}": panel.rows for i, panel in enumerate(self.panels)},
        }

    def png(self) -> bytes:
        """The picture, drawn without a browser, a display or the network."""
        drawn = vl_convert.vegalite_to_png(self.spec(), scale=SCALE, allowed_base_urls=[])
        small = io.BytesIO()  # the very same pixels in a quarter of the bytes
        with Image.open(io.BytesIO(drawn)) as image:
            image.convert("RGB").save(small, "PNG", optimize=True)
        return small.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Writes NAME.png and NAME.csv, and NAME-summary.csv where there is a summary.

        Returns:
            The paths of what was written.

        Raises:
            UserError: If the folder cannot be written.
        """
        contents: dict[str, bytes | str] = {
            f"{self.name}.png": self.png(), f"{self.name}.csv": csv_text(self.numbers.rows),
        }  # fmt: skip
        if self.numbers.summary:
            contents[f"{self.name}-summary.csv"] = csv_text(self.numbers.summary)
        for file, content in contents.items():
            write_atomic(folder / file, content)
        return [folder / file for file in contents]


def rows_chart() -> alt.Chart:
    """An empty chart of a panel's rows."""
    return alt.Chart(alt.NamedData(name=ROWS))


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same columns as CSV: numbers to six digits, None as an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def read_csv(path: Path) -> Rows:
    """The rows that :func:`csv_text` wrote: columns of numbers are numbers, empty fields None.

    Raises:
        UserError: If the file cannot be read or has no rows.
    """
    try:
        with path.open(newline="") as file:
            rows: Rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}).") from None
    if not rows:
        raise UserError(f"{path} has no rows; is it the CSV of a figure?")
    for name in rows[0]:
        values = [_number(row[name]) for row in rows]
        if not any(isinstance(value, str) for value in values):
            for row, value in zip(rows, values, strict=True):
                row[name] = value
    return rows


def _number(text: str | None) -> int | float | str | None:
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
