"""Puts a report together: what was run, tables, charts, photographs, in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from restore_vlm.errors import UserError
from restore_vlm.study.numbers import ZERO, halves, hm_by_run
from restore_vlm.study.records import Record, read_records
from restore_vlm.training import write_atomic

TEMPLATES = "restore_vlm.study.report"


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
    records = read_records(paths)
    environment = Environment(loader=PackageLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    folder = files(TEMPLATES) / "templates"
    return environment.get_template("page.html.j2").render(
        **_content(paths, records, data),
        version=version("restore-vlm"),
        style=(folder / "style.css").read_text(),
        script=(folder / "page.js").read_text(),
        vega=vl_convert.javascript_bundle().replace("</script", r"<\/script"),  # type: ignore[call-arg]
    )


def _content(paths: Sequence[Path], records: Sequence[Record], data: str | None) -> dict[str, Any]:
    from restore_vlm.study.report import photos, tables

    grids = [p for p in paths if (p / "grids").is_dir()]
    shown = _shown(records)
    one = _told(shown)
    confusions, origin = photos.confusions(one, data)
    runs = [r for r in records if r.protocol == "runs"]
    sheets = [sheet for p in grids for sheet in tables.grid_sheets(p)]
    facts = {
        "backbone": records[0].backbone,
        "methods": ", ".join(dict.fromkeys(r.method for r in records)),
        "datasets": ", ".join(dict.fromkeys(r.dataset for r in records)),
        "seeds": ", ".join(str(s) for s in sorted({r.seed for r in records})),
        "tests": str(len(records)),
        **tables.machine(records),
    }
    return {
        "title": ", ".join(p.resolve().name for p in paths),
        "facts": facts,
        "commands": [c for p in paths for c in tables.commands(p, _under(p, records))],
        "sheets": ([tables.run_sheet(runs)] if runs else []) + sheets,
        "classes": tables.class_sheet(shown),
        "charts": _charts(records, shown),
        "confusions": confusions,
        "confused": f"{one.method}, {one.dataset}, {one.part} classes, seed {one.seed}. {origin}",
    }


def _under(path: Path, records: Sequence[Record]) -> list[Record]:
    """The records of one of several paths, which are read in order."""
    own = read_records([path])
    return [r for r in records if r in own]


def _shown(records: Sequence[Record]) -> list[Record]:
    """Base and novel tests where there are any; else all."""
    try:
        return halves(records)
    except UserError:
        return list(records)


def _told(records: Sequence[Record]) -> Record:
    """The test whose mistakes are shown: of the method best in HM, or of the last one."""
    scores = {k: v for k, v in hm_by_run(records).items() if k[0] != ZERO}
    if scores:
        best = max(scores, key=lambda key: scores[key])
        return next(r for r in records if (r.method, r.dataset, r.seed) == best and r.part == "novel")
    return records[-1]


def _charts(records: Sequence[Record], shown: Sequence[Record]) -> list[Any]:
    from restore_vlm.study.report import charts

    found = charts.learning_curves(shown)
    blocks = charts.block_chart(shown)
    if blocks:
        found.append(blocks)
        with suppress(UserError):
            found.append(charts.gain_chart(records))
    return [*found, charts.reliability_chart(shown), charts.true_class_chart(shown)]
