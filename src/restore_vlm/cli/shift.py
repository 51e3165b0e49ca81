"""``restore-vlm shift``: how far a run has moved each tower."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restore_vlm.errors import UserError

if TYPE_CHECKING:
    from restore_vlm.measure.shift import Measurement, Shift

    from restore_vlm.terminal import Bars

Runs = Annotated[list[Path], typer.Argument(help="Run folders of restore-vlm train.")]
Data = Annotated[str, typer.Option(help="As for evaluate.")]
Classes = Annotated[str, typer.Option(help="all, base, novel, or a file of class names.")]
Images = Annotated[int, typer.Option(min=1, help="Test images looked at, at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad-images", help="Go on without unreadable images.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is by default.")]


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
    from restore_vlm.terminal import bars
    from restore_vlm.training import write_json

    folders = list(dict.fromkeys(runs))
    _same_backbone(folders)
    found: dict[Path, Measurement] = {}
    with bars() as display:
        measurements = _measurements(folders, data, classes, images, skip_bad_images, device, display)
        for folder, measurement in zip(folders, measurements, strict=True):
            content = {"data": data, **measurement.as_json()}
            write_json(folder / f"shift-{Path(classes).stem}.json", content)
            found[folder] = measurement
            display.move("runs", len(found), len(folders))
    if as_json:
        print(json.dumps({str(folder): m.as_json() for folder, m in found.items()}, indent=2))
        return
    _summary(found)
    if len(found) == 1:
        _blocks(*found.values())


def _same_backbone(folders: list[Path]) -> None:
    from restore_vlm.classifier import read_adapter
    from restore_vlm.training import RunFolder

    names = list(dict.fromkeys(read_adapter(RunFolder(folder).adapter)[1]["backbone"] for folder in folders))
    if len(names) > 1:
        raise UserError(f"The runs are of different backbones ({', '.join(names)}); measure those of one.")


def _measurements(
    folders: list[Path],
    data: str,
    classes: str,
    images: int,
    skip_bad_images: bool,
    device: str | None,
    display: Bars,
) -> Iterator[Measurement]:
    """Of one run after the other, one in memory at a time."""
    from restore_vlm.classifier import Classifier
    from restore_vlm.measure import Probe
    from restore_vlm.training import Progress

    which: Any = classes if classes in ("all", "base", "novel") else Path(classes)
    progress = Progress(display.say, lambda done, total: display.move("checking images", done, total))
    others = [folder for folder in folders[1:] if (folder / "images.json").is_file()]
    first = Classifier.load(folders[0], device)
    items, names = first.to_test(data, which, skip_bad_images, progress, others)
    probe = Probe.of(items, names, first.model.backbone, images, len(names))
    if len(names) == 1:
        display.say(
            "With one class there are no quartiles over classes; the modality gap is that to it alone."
        )
    if len(probe.labels) == 1:
        display.say(
            "With one image there are no quartiles over images; the modality gap is that to it alone."
        )
    display.move("runs", 0, len(folders))
    later = (Classifier.load(folder, device) for folder in folders[1:])
    return probe.compare(run.model for run in chain([first], later))


def _summary(found: dict[Path, Measurement]) -> None:
    from restore_vlm.terminal import table

    def show(title: str, *columns: str, cells: Callable[[Measurement], list[str]]) -> None:
        table(title, "run", *columns, rows=[[str(folder), *cells(m)] for folder, m in found.items()])

    def shifts(m: Measurement) -> list[str]:
        means = (mean(block.relative.mean for block in tower) for tower in (m.text, m.image))
        return [*(f"{value:.3f}" for value in means), f"{m.total_discrepancy:.4f}"]

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
