"""How charts look, on paper and on the report's page: colours, marks of methods, axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import altair as alt

INK, SOFT, LINE = "#1b1f24", "#57606a", "#d0d7de"
COLOURS = ("#24292f", "#0072b2", "#d55e00", "#008a64", "#aa4499", "#b8860b", "#2f9fd0", "#7a4fd0")
"""Eight colours that colour-blind people tell apart."""
VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line"} | {c: f"--s{i}" for i, c in enumerate(COLOURS, 1)}
"""The CSS variable of each colour on the page, where it has a dark counterpart."""
SHAPES = (
    "M-0.95,0a0.95,0.95 0 1 0 1.9,0a0.95,0.95 0 1 0 -1.9,0Z",
    "M-0.85,-0.85h1.7v1.7h-1.7Z",
    "M0,-1.15L1.15,0L0,1.15L-1.15,0Z",
    "M0,-1.05L1.1,0.85L-1.1,0.85Z",
    "M0,1.05L1.1,-0.85L-1.1,-0.85Z",
    "M-0.35,-1h0.7v0.65h0.65v0.7h-0.65v0.65h-0.7v-0.65h-0.65v-0.7h0.65Z",
)
DASHES = ((1, 0), (7, 3), (2, 2))
METHODS = (
    "clip", "restore", "ivlp", "maple", "coop", "promptsrc", "kgcoop", "cocoop", "vpt", "lpt", "prograd",
    "ivlp_fs", "clip_lora", "wise_ft", "taskres", "linear_probe", "tip_adapter", "tip_adapter_f",
    "clip_adapter", "clip_ensemble",
)  # fmt: skip
"""Methods whose colour, dash and mark are the same in every figure; the first eight have a colour each."""
PART_COLOURS = {"base": COLOURS[1], "novel": COLOURS[5], "HM": COLOURS[0]}
PART_SHAPES = {"base": SHAPES[0], "novel": SHAPES[1], "HM": SHAPES[2]}
PART_DASHES = {"base": DASHES[0], "novel": DASHES[1], "HM": DASHES[2]}
TOWER_COLOURS = {"text": COLOURS[7], "image": COLOURS[6]}
BOTTOM = alt.Legend(orient="bottom", direction="horizontal", title=None, symbolStrokeWidth=0)


class SeriesStyle:
    """Colour, dash and mark of each of several series; known methods always have their own.

    Args:
        names: What the series are called.
        field: The column that has the names.
    """

    def __init__(self, names: Iterable[str], field: str = "method") -> None:
        self.names, self.field = list(dict.fromkeys(names)), field
        taken = {METHODS.index(name) for name in self.names if name in METHODS}
        free = (place for place in count() if place not in taken)
        self.places = [METHODS.index(n) if n in METHODS else next(free) for n in self.names]

    def on(self, field: str) -> SeriesStyle:
        """The same series in another column."""
        return SeriesStyle(self.names, field)

    def legend(self) -> list[dict[str, Any]]:
        """For a legend in HTML: name, CSS variable of the colour, dash, and path of the mark."""
        return [
            {"name": name, "colour": VARIABLES[COLOURS[i % len(COLOURS)]],
             "dash": " ".join(map(str, _dash(i))), "shape": SHAPES[i % len(SHAPES)]}
            for name, i in zip(self.names, self.places, strict=True)
        ]  # fmt: skip

    @property
    def colour(self) -> alt.Color:
        return alt.Color(f"{self.field}:N", scale=self._scale(COLOURS), title=None)

    @property
    def shape(self) -> alt.Shape:
        return alt.Shape(f"{self.field}:N", scale=self._scale(SHAPES), title=None)

    @property
    def dash(self) -> alt.StrokeDash:
        scale = alt.Scale(domain=self.names, range=[list(_dash(i)) for i in self.places])
        return alt.StrokeDash(f"{self.field}:N", scale=scale, title=None)

    def lines(self, base: Any) -> Any:
        """An encoded chart as lines with a mark at every point."""
        line = base.mark_line(strokeWidth=2).encode(color=self.colour, strokeDash=self.dash)
        return line + base.mark_point(filled=True, size=34, opacity=1).encode(
            color=self.colour, shape=self.shape
        )

    def _scale(self, values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=self.names, range=[values[i % len(values)] for i in self.places])


def _dash(place: int) -> tuple[int, int]:
    return DASHES[place // len(COLOURS) % len(DASHES)]


def part_scale(parts: Iterable[str], known: dict[str, Any], others: Sequence[Any]) -> alt.Scale:
    """Colour, shape or dash of base, novel and HM, and of whatever else was tested."""
    names = list(dict.fromkeys(parts))
    free = iter([value for value in others if value not in known.values()] * len(names))
    return alt.Scale(domain=names, range=[known[n] if n in known else next(free) for n in names])


def tip(field: str, form: str = "", title: str | None = None) -> alt.Tooltip:
    """A value under the pointer."""
    shown = title or field.partition(":")[0].replace("_", " ")
    return alt.Tooltip(field, title=shown, format=form) if form else alt.Tooltip(field, title=shown)


def grouped_bars(
    base: alt.Chart, rows: Iterable[dict[str, Any]], x: str, group: str, colours: dict[str, str], y: str,
    form: str,
) -> Any:  # fmt: skip
    """Bars side by side with error bars and their values above.

    Args:
        base: A chart of the rows.
        rows: Rows with the columns ``value``, ``low`` and ``high``, of which the last two may be None, and
            those of ``x`` and ``group``.
        x: The column of what bars stand side by side for, in order of appearance.
        group: The column that colours them.
        colours: The colour of each group, in order.
        y: The title of the axis.
        form: The format of values, as d3 has it.
    """
    order = list(colours)
    scale = alt.Scale(domain=order, range=list(colours.values()))
    side = alt.Scale(type="band", domain=order, paddingInner=0.08, paddingOuter=0)
    across = alt.X(
        f"{x}:N", title=None, sort=None, axis=alt.Axis(labelAngle=0), scale=alt.Scale(paddingInner=0.25)
    )
    placed = base.encode(x=across, xOffset=alt.XOffset(f"{group}:N", scale=side))
    bars = placed.mark_bar().encode(
        y=alt.Y("value:Q", title=y),
        color=alt.Color(f"{group}:N", scale=scale, sort=order, legend=BOTTOM),
        tooltip=[tip(f"{x}:N"), tip(f"{group}:N"), tip("value:Q", form),
                 tip("low:Q", form, "error bar from"), tip("high:Q", form, "to")],
    )  # fmt: skip
    text = (
        placed.transform_calculate(top="max(0, datum.value, isValid(datum.high) ? datum.high : 0)")
        .mark_text(dy=-6, fontSize=9, color=INK)
        .encode(y="top:Q", text=alt.Text("value:Q", format=form))
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=SOFT).encode(y="zero:Q")
    return alt.layer(bars, zero, *error_bars(placed, rows, y=alt.Y("low:Q"), y2="high:Q"), text)


def error_bars(base: alt.Chart, rows: Iterable[dict[str, Any]], **encodings: Any) -> list[Any]:
    """A layer of lines, black unless encoded otherwise; none where no row has ``low``."""
    if all(row["low"] is None for row in rows):
        return []
    return [
        base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5, color=INK).encode(**encodings)
    ]


def config(font: str, background: str, legends: bool) -> dict[str, Any]:
    """The configuration of a chart.

    Args:
        font: Of all text.
        background: Behind everything.
        legends: Whether scales have legends that do not ask for one.
    """
    return {
        "background": background,
        "font": font,
        "view": {"stroke": None},
        "title": {"anchor": "start", "color": INK, "fontSize": 13, "fontWeight": "bold", "offset": 8,
                  "subtitleColor": SOFT, "subtitleFontSize": 11},
        "axis": {"labelColor": SOFT, "titleColor": INK, "gridColor": LINE, "domainColor": SOFT,
                 "tickColor": SOFT, "gridOpacity": 0.6, "labelFontSize": 11, "titleFontSize": 12,
                 "titleFontWeight": "normal", "titlePadding": 8, "labelLimit": 300},
        "legend": {"labelColor": INK, "labelFontSize": 11, "labelLimit": 300, "symbolStrokeWidth": 2,
                   "titleFontWeight": "normal", "titleColor": INK, **({} if legends else {"disable": True})},
    }  # fmt: skip
