"""``restore-vlm shift``: how far a run has moved each tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restore_vlm.errors import UserError

if TYPE_CHECKING:
    from restore_vlm.serving import Classifier
    from restore_vlm.shift import Measurement

Runs = Annotated[list[Path], typer.Argument(help="Run folders of restore-vlm train.")]
Data = Annotated[str, typer.Option(help="As for evaluate.")]
Classes = Annotated[str, typer.Option(help="all, base, novel, or a file of class names.")]
Images = Annotated[int, typer.Option(min=1, help="Test images looked at, at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is by default.")]


def shift(
    runs: Runs,
    data: Data,
    classes: Classes = "all",
    images: Images = 256,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Measure how far the learned parts of RUNS move each tower, block by block.

    All runs see the same images; each folder gets shift-CLASSES.json.
    """
    from restore_vlm.serving import Classifier
    from restore_vlm.terminal import bars
    from restore_vlm.training import write_json

    which: Any = classes if classes in ("all", "base", "novel") else Path(classes)
    with bars() as display:
        loaded = [Classifier.load(run, device) for run in runs]
        found = measure_runs(loaded, data, which, images, lambda n: display.move("runs", n, len(runs)))
    for run, measurement in zip(runs, found, strict=True):
        write_json(run / f"shift-{Path(classes).stem}.json", {"data": data, **measurement.as_json()})
    if as_json:
        print(json.dumps({str(run): m.as_json() for run, m in zip(runs, found, strict=True)}, indent=2))
        return
    _summary(runs, found)
    if len(runs) == 1:
        _blocks(found[0])


def measure_runs(
    runs: list[Classifier], data: str, classes: Any, images: int, done: Any = lambda count: None
) -> list[Measurement]:
    """Measures runs of one backbone on the same test images: those that none was trained on.

    One frozen pass serves all runs of one template.

    Raises:
        UserError: If the backbones differ, or there is no image to measure on.
    """
    from restore_vlm.training import Probe

    names = list(dict.fromkeys(run.header["backbone"] for run in runs))
    if len(names) > 1:
        raise UserError(f"The runs are of different backbones ({', '.join(names)}); measure those of one.")
    candidates = [run.to_test(data, classes) for run in runs]
    common = set.intersection(*({item.path for item in items} for items, _ in candidates))
    items, told_apart = candidates[0]
    items = [item for item in items if item.path in common]
    if not items:
        raise UserError(f"Every image of {data} is one that a run was trained on; measure the runs apart.")
    probe = Probe.of(items, told_apart, runs[0].model.backbone, images, len(told_apart))
    frozen: dict[str, Any] = {}
    found = []
    for count, run in enumerate(runs, start=1):
        template = run.model.config.template
        if template not in frozen:
            frozen[template] = probe.frozen(run.model)
        found.append(probe.measure(run.model, frozen[template]))
        done(count)
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
