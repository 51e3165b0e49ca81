"""Puts a report together: what was run, tables, charts, photographs, in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restore_vlm.errors import UserError
from restore_vlm.figures.numbers import ZERO, hm_by_run, methods_of, usual_settings
from restore_vlm.figures.records import Record, read_each
from restore_vlm.report.entries import Entry, at_first, entries, names, scopes
from restore_vlm.runtime.files import bundled, write_atomic

if TYPE_CHECKING:
    from restore_vlm.report.vega import Look, Section

TEMPLATES = "restore_vlm.report"


def write_report(paths: Sequence[Path], out: Path, data: str | None = None) -> None:
    """Writes the report of run folders or grids.

    Args:
        paths: Run folders of ``restore-vlm train`` or ``--out`` folders of ``restore-vlm bench``.
        out: The HTML file.
        data: Where the photographs of confusions are, if not where the runs found them.

    Raises:
        UserError: If nothing is finished, the runs are of different backbones, or ``out`` cannot be written.
    """
    write_atomic(out, render_page(paths, data))


def render_page(paths: Sequence[Path], data: str | None = None) -> str:
    """The page as text; see :func:`write_report`."""
    try:
        import altair  # noqa: F401
        import vl_convert
        from jinja2 import Environment, PackageLoader
    except ImportError:
        raise UserError("The report's parts are not installed: pip install 'restore-vlm[report]'.") from None
    each = read_each(paths)
    environment = Environment(loader=PackageLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    return environment.get_template("page.html.j2").render(
        **_content(dict(zip(paths, each, strict=True)), data),
        version=version("restore-vlm"),
        style=bundled(TEMPLATES, "templates/style.css"),
        script=bundled(TEMPLATES, "templates/page.js"),
        vega=vl_convert.javascript_bundle().replace("</script", r"<\/script"),  # type: ignore[call-arg]
    )


def _content(each: dict[Path, list[Record]], data: str | None) -> dict[str, Any]:
    from restore_vlm.report import photos, repeat, tables, vega

    records = [r for own in each.values() for r in own]
    found = entries(_comparable(records))
    look = vega.Look(names(found), at_first(found), scopes(found))
    sections = _sections(list(each), records, found, look)
    told = _told(records)
    confusions, origin = photos.confusions(told, data)
    facts = {
        "backbone": records[0].backbone,
        "methods": ", ".join(methods_of(records)),
        "datasets": ", ".join(dict.fromkeys(r.dataset for r in records)),
        "seeds": ", ".join(str(s) for s in sorted({r.seed for r in records})),
        "tests": str(len(records)),
        **repeat.machine(records),
    }
    return {
        "title": ", ".join(p.resolve().name for p in each),
        "facts": facts,
        "commands": [c for p, own in each.items() for c in repeat.commands(p, own)],
        "sections": sections,
        "classes": vega.Section("classes", "Classes", sheets=tables.class_sheets(found)),
        "series": look.keys(),
        "datasets": list(dict.fromkeys(e.record.dataset for e in found)),
        "scopes": look.scopes,
        "rows": {name: vega.packed(rows) for s in sections for name, rows in s.rows.items() if rows},
        "specs": [{"rows": list(s.rows), "spec": c.spec} for s in sections for c in s.charts],
        "confusions": confusions,
        "confused": f"{told.method}, {told.dataset}, {told.part} classes, seed {told.seed}. {origin}",
    }


def _sections(
    paths: Sequence[Path], records: Sequence[Record], found: Sequence[Entry], look: Look
) -> list[Section]:
    from restore_vlm.report import learning, outcomes, shifts, tables, vega

    results = vega.Section("results", "Results")
    if len(found) < len(records):
        results.notes.append("Charts are of the most shots and of methods as they are; the tables have all.")
    for name, (rows, charts) in (
        ("trade-off", outcomes.trade_off(found, look)),
        ("shots", outcomes.by_shots(records, look)),
    ):
        results.rows[name] = rows
        results.charts += charts
    runs = [e for e in found if e.record.protocol == "runs"]
    results.sheets = [tables.run_sheet(runs)] if runs else []
    results.sheets += [sheet for p in paths if (p / "grids").is_dir() for sheet in tables.grid_sheets(p)]
    curves = learning.learning(found, look)
    parts = [results, *([curves] if curves else [])]
    return [*parts, outcomes.calibration(found, look), shifts.shifts(found, records, look)]


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
