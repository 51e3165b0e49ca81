"""``restore-vlm shift``: how far a run has moved each tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restore_vlm.errors import UserError

if TYPE_CHECKING:
    from restore_vlm.shift import Measurement, Shift
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

    which: Any = classes if classes in ("all", "base", "novel") else Path(classes)
    with bars() as display:
        found = _measure(runs, data, which, images, skip_bad_images, device, display)
        for run, measurement in found.items():
            write_json(run / f"shift-{Path(classes).stem}.json", {"data": data, **measurement.as_json()})
    if as_json:
        print(json.dumps({str(run): m.as_json() for run, m in found.items()}, indent=2))
        return
    _summary(found)
    if len(found) == 1:
        _blocks(*found.values())


def _measure(
    runs: list[Path], data: str, which: Any, images: int, skip_bad: bool, device: str | None, display: Bars
) -> dict[Path, Measurement]:
    """One run in memory at a time, and one frozen pass for all runs of one template."""
    from restore_vlm.serving import Classifier
    from restore_vlm.training import Probe, Progress

    check_backbones(runs)
    folders = list(dict.fromkeys(runs))
    later = [folder for folder in folders[1:] if (folder / "images.json").is_file()]
    progress = Progress(display.say, lambda done, total: display.move("checking images", done, total))
    first = Classifier.load(folders[0], device)
    items, names = first.to_test(data, which, skip_bad, progress, later)
    probe = Probe.of(items, names, first.model.backbone, images, len(names))
    if missing := [
        what for what, count in (("class", len(names)), ("image", len(probe.labels))) if count == 1
    ]:
        display.say(f"With one {' and one '.join(missing)} there are no quartiles, and {LITTLE}.")
    frozen: dict[str, Any] = {}
    found: dict[Path, Measurement] = {}
    for count, folder in enumerate(folders):
        display.move("runs", count, len(folders))
        model = (Classifier.load(folder, device) if count else first).model
        template = model.config.template
        if template not in frozen:
            frozen[template] = probe.frozen(model)
        found[folder] = probe.measure(model, frozen[template])
    display.move("runs", len(folders), len(folders))
    return found


def _summary(runs: list[Path], found: list[Measurement]) -> None:
    from restore_vlm.terminal import table

    def row(run: Path, m: Measurement) -> list[str]:
        text, image = (sum(s.relative.mean for s in tower) / len(tower) for tower in (m.text, m.image))
        matching = [f"{a.matching:.3f}" if a.matching is not None else "-" for a in (m.before, m.after)]
        return [
            str(run), f"{text:.3f}", f"{image:.3f}", f"{m.total_discrepancy:.3f}",
            f"{m.text_feature.cosine.mean:.3f}", f"{m.image_feature.cosine.mean:.3f}",
            " to ".join(matching), f"{m.before.gap:.3f} to {m.after.gap:.3f}",
        ]  # fmt: skip

    table(
        "Feature shift (relative to the frozen model, mean over blocks)", "run", "text", "image",
        "discrepancy", "cosine, text", "cosine, image", "matching pairs", "modality gap",
        rows=[row(run, m) for run, m in zip(runs, found, strict=True)],
    )  # fmt: skip


def _blocks(found: Measurement) -> None:
    from itertools import zip_longest

    from restore_vlm.terminal import table

    def cells(shift: Any) -> list[str]:
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
