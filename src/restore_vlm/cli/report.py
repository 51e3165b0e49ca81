"""``restore-vlm report``: finished runs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Paths = Annotated[
    list[Path], typer.Argument(help="Runs of restore-vlm train, or the --out of restore-vlm bench.")
]
Out = Annotated[Path, typer.Option(help="The HTML file.")]
Data = Annotated[
    str | None, typer.Option(help="Where the test photos are, if not where the runs found them.")
]


def report(paths: Paths, out: Out = Path("report.html"), data: Data = None) -> None:
    """Write one self-contained HTML page: results, curves, calibration, mistakes, feature shift."""
    from restore_vlm.report import write_report
    from restore_vlm.terminal import err

    with err.status("writing the report"):
        write_report(paths, out, data)
    err.print(f"Open [bold]{out}[/] in a browser ({out.stat().st_size / 1e6:.1f} MB).", highlight=False)
