"""How charts of a report look, and what they share with its controls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from restore_vlm.report.tables import Sheet

Rows = list[dict[str, Any]]
COLOURS = tuple(f"var(--s{i})" for i in range(1, 9))
DASHES = ((1, 0), (7, 3), (2, 2))
SHAPES = (
    "M-0.95,0a0.95,0.95 0 1 0 1.9,0a0.95,0.95 0 1 0 -1.9,0Z",
    "M-0.85,-0.85h1.7v1.7h-1.7Z",
    "M0,-1.15L1.15,0L0,1.15L-1.15,0Z",
    "M0,-1.05L1.1,0.85L-1.1,0.85Z",
    "M0,1.05L1.1,-0.85L-1.1,-0.85Z",
    "M-0.35,-1h0.7v0.65h0.65v0.7h-0.65v0.65h-0.7v-0.65h-0.65v-0.7h0.65Z",
)
FEW = 40
"""Points of a line, beyond which they are felt by the pointer but not drawn."""


@dataclass(frozen=True)
class Chart:
    """A chart and what it says to those who do not see it.

    Attributes:
        title: Heading.
        text: What is shown.
        spec: Vega-Lite, reading the rows that its data names.
    """

    title: str
    text: str
    spec: dict[str, Any]


@dataclass
class Section:
    """A part of the page.

    Attributes:
        name: Its anchor.
        title: Heading.
        charts: In order.
        sheets: Tables that say the same in numbers.
        rows: What the charts draw, by name.
        notes: Sentences above.
    """

    name: str
    title: str
    charts: list[Chart] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    rows: dict[str, Rows] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Look:
    """Colour, dash and shape of every series, the same in all charts.

    Args:
        names: The series.
        shown: Those drawn at first.
        scopes: The tests, the first of which is drawn at first.
    """

    def __init__(self, names: Sequence[str], shown: Sequence[str], scopes: Sequence[str]) -> None:
        self.names, self.shown, self.scopes = list(names), list(shown), list(scopes)

    def keys(self) -> list[dict[str, Any]]:
        """For the legend: name, whether shown, and the marks."""
        return [
            {"name": name, "shown": name in self.shown, "colour": i % len(COLOURS) + 1,
             "dash": " ".join(map(str, self._dash(i))), "shape": SHAPES[i % len(SHAPES)]}
            for i, name in enumerate(self.names)
        ]  # fmt: skip

    def _dash(self, place: int) -> tuple[int, int]:
        return DASHES[place // len(COLOURS) % len(DASHES)]

    def _scale(self, values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=self.names, range=[values[i % len(values)] for i in range(len(self.names))])

    @property
    def colour(self) -> alt.Color:
        return alt.Color("series:N", scale=self._scale(COLOURS), legend=None)

    @property
    def dash(self) -> alt.StrokeDash:
        dashes = [list(self._dash(i)) for i in range(len(self.names))]
        return alt.StrokeDash("series:N", scale=self._scale(dashes), legend=None)

    @property
    def shape(self) -> alt.Shape:
        return alt.Shape("series:N", scale=self._scale(SHAPES), legend=None)

    def chosen(self, scope: bool = True, datasets: Sequence[str] | None = None) -> str:
        """The filter of what readers chose.

        Args:
            scope: Whether rows are of one test.
            datasets: Those that rows are of, where a reader may choose others as well.
        """
        known = "dataset == ''" if datasets is None else f"indexof({json.dumps(list(datasets))}, dataset) < 0"
        parts = ["indexof(shown, datum.series) >= 0", f"({known} || datum.dataset == dataset)"]
        return " && ".join([*parts, "datum.scope == scope"] if scope else parts)

    def lines(self, chart: Any) -> Any:
        """An encoded chart as lines with points."""
        line = chart.mark_line(strokeWidth=2).encode(color=self.colour, strokeDash=self.dash)
        point = chart.mark_point(filled=True, size=34, opacity=1)
        return line + point.encode(color=self.colour, shape=self.shape)

    def finish(self, title: str, text: str, chart: Any, height: int = 250) -> Chart:
        """A chart with the page's style and its controls' values."""
        whole = chart.properties(width="container", height=height, description=f"{title}. {text}")
        spec = whole.configure(**_config()).to_dict()
        spec["params"] = [
            {"name": "shown", "value": self.shown},
            {"name": "dataset", "value": ""},
            {"name": "scope", "value": self.scopes[0]},
            *spec.get("params", []),
        ]
        return Chart(title, text, spec)


def named(rows: str) -> alt.Chart:
    """A chart of one of the page's tables of rows."""
    return alt.Chart(alt.NamedData(name=rows))


def folded(name: str, fields: dict[str, str], x: alt.X, y: str, points: int) -> Any:
    """Several fields of the same rows as lines with a legend, for one run."""
    titles = list(fields.values())
    labelled = " : ".join(f"datum.key == '{key}' ? '{title}'" for key, title in fields.items()) + " : ''"
    base = (
        named(name)
        .transform_fold(list(fields), as_=["key", "value"])
        .transform_calculate(what=labelled)
        .encode(
            x=x,
            y=alt.Y("value:Q", title=y),
            color=alt.Color(
                "what:N", sort=titles, title=None, scale=alt.Scale(domain=titles, range=list(COLOURS))
            ),
            tooltip=[alt.Tooltip("what:N", title="line"), tip(str(x.shorthand)), tip("value:Q", ".4f")],
        )
    )
    visible = points <= FEW
    point = base.mark_point(filled=True, size=34 if visible else 90, opacity=1 if visible else 0)
    return base.mark_line(strokeWidth=2) + point


def tip(field: str, form: str = "", title: str | None = None) -> alt.Tooltip:
    """A value under the pointer."""
    shown = title or field.partition(":")[0].replace("_", " ")
    return alt.Tooltip(field, title=shown, format=form) if form else alt.Tooltip(field, title=shown)


def packed(rows: Rows) -> dict[str, Any]:
    """Rows as columns' names and values, numbers to five digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": names, "rows": [[_short(row.get(name)) for name in names] for row in rows]}


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _config() -> dict[str, Any]:
    ink, soft, line = "var(--ink)", "var(--soft)", "var(--line)"
    font = "system-ui, sans-serif"
    return {
        "background": "transparent",
        "font": font,
        "autosize": alt.AutoSizeParams(type="fit", contains="padding"),
        "view": alt.ViewConfig(stroke=None),
        "axis": alt.AxisConfig(
            labelColor=soft, titleColor=ink, gridColor=line, domainColor=soft, tickColor=soft,
            gridOpacity=0.6, labelFontSize=11, titleFontSize=12, titleFontWeight="normal", titlePadding=8,
        ),
        "legend": alt.LegendConfig(
            orient="top", direction="horizontal", labelColor=ink, labelFontSize=12, labelLimit=220, columns=3,
            symbolStrokeWidth=3,
        ),
    }  # fmt: skip
