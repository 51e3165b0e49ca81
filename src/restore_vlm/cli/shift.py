"""``restore-vlm shift``: how far a run has moved each tower."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated

import typer

from restore_vlm.cli.options import Classes, Device, SkipBad, progress_on

if TYPE_CHECKING:
    from restore_vlm.measure.shift import Measurement, Shift

Runs = Annotated[list[Path], typer.Argument(help="Run folders of restore-vlm train.")]
Data = Annotated[str, typer.Option(help="As for evaluate.")]
Images = Annotated[int, typer.Option(min=1, help="Test images looked at, at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def shift(
    runs: Runs,
    data: Data,
    classes: Classes = "all",
    images: Images = 256,
    as_json: AsJson = False,
    skip_bad_images: SkipBad = False,
    device: Device = None,
) -> None:
    """Measure how far the learned parts of RUNS move each tower, block by block.

    All runs see the same images, none of which any was trained on; each folder gets shift-CLASSES.json.
    """
    from restore_vlm.classifier import Classifier
    from restore_vlm.terminal import bars

    folders = list(dict.fromkeys(runs))
    found: dict[Path, Measurement] = {}
    with bars() as display:
        measured = Classifier.compare_shift(
            folders, data, classes, images, skip_bad_images, progress_on(display), device
        )
        for folder, measurement in zip(folders, measured, strict=True):
            found[folder] = measurement
            display.move("runs", len(found), len(folders))
    if as_json:
        print(json.dumps({str(folder): m.as_json() for folder, m in found.items()}, indent=2))
        return
    _summary(found)
    if len(found) == 1:
        _blocks(*found.values())
    if any(m.total_discrepancy is None for m in found.values()):
        print("A tower that shows no blocks is measured at its final features alone.")


def _summary(found: dict[Path, Measurement]) -> None:
    from restore_vlm.terminal import table

    def show(title: str, *columns: str, cells: Callable[[Measurement], list[str]]) -> None:
        table(title, "run", *columns, rows=[[str(folder), *cells(m)] for folder, m in found.items()])

    def shifts(m: Measurement) -> list[str]:
        blocks = ([block.relative.mean for block in tower] for tower in (m.text, m.image))
        total = m.total_discrepancy
        return [*(f"{mean(b):.3f}" if b else "-" for b in blocks), "-" if total is None else f"{total:.4f}"]

    def features(m: Measurement) -> list[str]:
        of = m.text_feature, m.image_feature
        return [*(f"{f.relative.mean:.3f}" for f in of), *(f"{f.cosine.mean:.3f}" for f in of)]

    def space(m: Measurement) -> list[str]:
        return [
            f"{m.before.matching:.3f} to {m.after.matching:.3f}", f"{m.before.gap:.3f} to {m.after.gap:.3f}"
        ]  # fmt: skip

    show("Relative shift, mean over blocks", "text", "image", "discrepancy", cells=shifts)
    show("Final features", "text shift", "image shift", "text cosine", "image cosine", cells=features)
    show("Shared space, frozen to tuned", "matching pairs", "modality gap", cells=space)


def _blocks(found: Measurement) -> None:
    from restore_vlm.terminal import table

    def cells(shift: Shift | None) -> list[str]:
        if shift is None:
            return ["-", "-"]
        s = shift.relative
        return [f"{s.mean:.3f}", f"{s.low:.3f} to {s.high:.3f}"]

    towers = zip_longest(found.text, found.image, found.discrepancy)
    rows = [
        [str(block), *cells(text), *cells(image), "-" if gap is None else f"{gap:.4f}"]
        for block, (text, image, gap) in enumerate(towers, start=1)
    ]
    features = [*cells(found.text_feature), *cells(found.image_feature), "-"]
    table(
        "By block (quartiles over classes and images)", "block", "text", "quartiles", "image", "quartiles",
        "discrepancy", rows=[*rows, ["feature", *features]],
    )  # fmt: skip
