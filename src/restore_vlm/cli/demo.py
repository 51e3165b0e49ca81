"""``restore-vlm demo``: see a CLIP being adapted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    seeds: Annotated[int, typer.Option(min=1, max=3, help="How many of the seeds 1-3.")] = 3,
    out: Annotated[Path, typer.Option(help="Where table, picture and runs go.")] = Path("demo"),
) -> None:
    """Adapt the bundled CLIP to bundled thermal-camera photos by four methods and compare them."""
    from restore_vlm.demo import run_demo

    run_demo(range(1, seeds + 1), out)
