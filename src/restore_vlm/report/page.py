"""Puts a report together: what was run, tables, figures, photographs, in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader

from restore_vlm.errors import UserError
from restore_vlm.figures import registry
from restore_vlm.figures.figure import Figure
from restore_vlm.figures.numbers import ZERO, hm_by_run, methods_of, usual_settings
from restore_vlm.figures.records import Record, read_each
from restore_vlm.figures.style import SeriesStyle
from restore_vlm.report.labels import LabelledRecord, at_first, labelled, names, scopes
from restore_vlm.report.learning import learning
from restore_vlm.report.outcomes import by_shots, calibration, trade_off
from restore_vlm.report.photos import confusions
from restore_vlm.report.repeat import commands, machine
from restore_vlm.report.section import Section, packed
from restore_vlm.report.shifts import shifts
from restore_vlm.report.tables import class_tables, grid_tables, run_table
from restore_vlm.runtime.files import bundled, write_atomic

TEMPLATES = "restore_vlm.report"


def write_report(paths: Sequence[Path | str], out: Path | str, data: Path | str | None = None) -> None:
    """Writes finished runs or grids as one HTML page that needs nothing else.

    Nothing is written if anything is refused; an older page is replaced in one go.

    Args:
        paths: Folders of ``restore-vlm train`` or :func:`restore_vlm.fit` that were evaluated, or the
            ``--out`` of ``restore-vlm bench``, as many as you like; all of the same backbone.
        out: The HTML file to write.
        data: The folder of the photographs that the most frequent mistakes are shown with (of a grid, its
            ``--root``); None looks where the runs found them.

    Raises:
        UserError: If nothing is finished, a file is damaged, the runs are of different backbones, or ``out``
            cannot be written.

    Example:
        >>> from restore_vlm.report import write_report
        >>> write_report(["runs/coop", "runs/restore"], "report.html")  # doctest: +SKIP
    """
    write_atomic(Path(out), render_page(paths, data))


def render_page(paths: Sequence[Path | str], data: Path | str | None = None) -> str:
    """The page as text; see :func:`write_report`."""
    folders = [Path(path) for path in paths]
    each = dict(zip(folders, read_each(folders), strict=True))
    environment = Environment(loader=PackageLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    return environment.get_template("page.html.j2").render(
        **_content(each, None if data is None else str(data)),
        version=version("restore-vlm"),
        style=bundled(TEMPLATES, "templates/style.css"),
        script=bundled(TEMPLATES, "templates/page.js"),
        vega=vl_convert.javascript_bundle().replace("</script", r"<\/script"),  # type: ignore[call-arg]
    )


def _content(each: dict[Path, list[Record]], data: str | None) -> dict[str, Any]:
    records = [r for own in each.values() for r in own]
    found = labelled(_comparable(records))
    style, first = SeriesStyle(names(found), "series"), at_first(found)
    sections = _sections(list(each), records, found, style)
    told = _told(records)
    mistakes, origin = confusions(told, data)
    facts = {
        "backbone": records[0].backbone,
        "methods": ", ".join(methods_of(records)),
        "datasets": ", ".join(dict.fromkeys(r.dataset for r in records)),
        "seeds": ", ".join(str(s) for s in sorted({r.seed for r in records})),
        "tests": str(len(records)),
        **machine(records),
    }
    return {
        "title": ", ".join(p.resolve().name for p in each),
        "facts": facts,
        "commands": [c for p, own in each.items() for c in commands(p, own)],
        "sections": sections,
        "classes": Section("classes", "Classes", tables=class_tables(found)),
        "series": [key | {"shown": key["name"] in first} for key in style.legend()],
        "datasets": list(dict.fromkeys(r.dataset for r in found)),
        "scopes": scopes(found),
        **_embedded([figure for section in sections for figure in section.figures]),
        "confusions": mistakes,
        "confused": f"{told.method}, {told.dataset}, {told.part} classes, seed {told.seed}. {origin}",
    }


def _embedded(figures: Sequence[Figure]) -> dict[str, Any]:
    """The specification of every panel in order, and its rows, those that panels share once."""
    panels = [(panel, figure.numbers.caption) for figure in figures for panel in figure.panels]
    rows = {str(id(panel.rows)): panel.rows for panel, _ in panels}
    place = {key: str(i) for i, key in enumerate(rows)}
    return {
        "rows": {place[key]: packed(own) for key, own in rows.items()},
        "specs": [
            {"rows": place[str(id(panel.rows))], "spec": panel.page_spec(caption)}
            for panel, caption in panels
        ],
    }


def _sections(
    paths: Sequence[Path], records: Sequence[Record], found: Sequence[LabelledRecord], style: SeriesStyle
) -> list[Section]:
    results = Section("results", "Results", trade_off(found, style) + by_shots(records, style))
    if len(found) < len(records):
        results.notes.append("Charts are of the most shots and of methods as they are; the tables have all.")
    for name in ("ablation", "sensitivity"):
        with suppress(UserError):
            results.figures.append(registry.draw(name, records))
    runs = [r for r in found if r.protocol == "runs"]
    results.tables = [run_table(runs)] if runs else []
    results.tables += [table for p in paths if (p / "grids").is_dir() for table in grid_tables(p)]
    curves = learning(found, style)
    parts = [results, *([curves] if curves else [])]
    return [*parts, calibration(found, style), shifts(found, records, style)]


def _comparable(records: Sequence[Record]) -> list[Record]:
    """Without a grid's variants of methods, which may be of other datasets: those are in the tables."""
    usual = usual_settings(records)
    return [r for r in records if r.protocol == "runs" or r.settings == usual]


def _told(records: Sequence[Record]) -> Record:
    """The test whose mistakes are shown: of the method best in HM, or of the last one."""
    comparable = _comparable(records)
    scores = {k: v for k, v in hm_by_run(comparable).items() if k[0] != ZERO}
    if scores:
        best = max(scores, key=lambda key: scores[key])
        return next(r for r in comparable if (r.method, r.dataset, r.seed) == best and r.part == "novel")
    return comparable[-1]
