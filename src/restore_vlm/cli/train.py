"""``restore-vlm train``, ``evaluate`` and ``predict``: one model, from photos to labels."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restore_vlm.cli.options import (
    Device,
    Precision,
    SkipBad,
    place,
    progress_on,
    shots_per_class,
    validation_share,
)
from restore_vlm.errors import UserError

if TYPE_CHECKING:
    from restore_vlm.evaluation import Comparison, Evaluation

Data = Annotated[str, typer.Argument(help="Image folder, CSV or JSON-lines manifest, or benchmark folder.")]
Run = Annotated[Path, typer.Argument(help="A run folder of restore-vlm train.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting: prompts.depth=6, surgery=none, training.lr=0.002."),
]


def train(
    data: Data,
    method: Annotated[
        str, typer.Option(help="A method (see: restore-vlm methods) or a TOML file.")
    ] = "restore",
    backbone: Annotated[
        str, typer.Option(help="tiny, MODEL:WEIGHTS such as ViT-B-16:openai, hf-hub:OWNER/REPO, or a folder.")
    ] = "tiny",
    shots: Annotated[str, typer.Option(help="Training images per class, or all.")] = "16",
    seed: Annotated[int, typer.Option(min=0)] = 1,
    classes: Annotated[str, typer.Option(help="all, base, novel, or a file of class names.")] = "all",
    out: Annotated[Path | None, typer.Option(help="Run folder; the same command resumes it.")] = None,
    recipe: Annotated[
        str, typer.Option(help="auto, default, or what restore-vlm methods NAME lists, joined by +.")
    ] = "auto",
    settings: Settings = None,
    names: Annotated[Path | None, typer.Option(help="File of readable class names.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="auto is bf16 where the hardware has it.")
    ] = Precision.auto,
    device: Device = None,
    skip_bad_images: SkipBad = False,
    log_shift: Annotated[
        bool, typer.Option("--log-shift", help="Write feature shift to shift.jsonl after every epoch.")
    ] = False,
    validation: Annotated[
        str,
        typer.Option(help="Share of the photos to hold back where none are left for validation, or none."),
    ] = "0.2",
) -> None:
    """Adapt a model to the photos in DATA.

    Several GPUs share the run: accelerate launch --num_processes 2 -m restore_vlm.cli train ...
    """
    from restore_vlm.classifier import fit
    from restore_vlm.runtime.processes import leave
    from restore_vlm.terminal import bars, err

    folder = (
        out
        or Path("runs") / f"{Path(data).resolve().stem}-{Path(method).stem}-{classes}-{shots}shot-seed{seed}"
    )
    with bars() as display:
        classifier = fit(
            data, method, backbone, shots_per_class(shots), seed, classes, settings or (), folder,
            progress_on(display), validation_share(validation), recipe=recipe,
            names=str(names) if names else None,
            precision=precision.value, device=device, skip_bad_images=skip_bad_images, log_shift=log_shift,
        )  # fmt: skip
    if not place()[0] and validation != "none":
        _show_comparison(classifier.validation)
    err.print(
        f"Learned {len(classifier.classes)} classes with {Path(method).stem}: [bold]{folder}[/]",
        highlight=False,
    )
    err.print(f"Next: restore-vlm evaluate {folder} --data {data}", highlight=False)
    err.print(f"      restore-vlm predict {folder} PHOTO ...", highlight=False)
    leave()


def evaluate(
    run: Run,
    data: Annotated[str, typer.Option(help="As for train.")],
    classes: Annotated[str, typer.Option(help="all, base, novel, or a file of class names.")] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    skip_bad_images: SkipBad = False,
    device: Device = None,
) -> None:
    """Test a run on labelled photos it was not trained on.

    Several GPUs share the photos as for train.
    """
    from restore_vlm.classifier import Classifier
    from restore_vlm.runtime.processes import leave
    from restore_vlm.terminal import bars
    from restore_vlm.training import write_json

    which: Any = classes if classes in ("all", "base", "novel") else Path(classes)
    with bars() as display:
        result = Classifier.load(run, device).evaluate(
            data, which, skip_bad_images, progress_on(display),
            lambda done, total: display.move("testing", done, total),
        )  # fmt: skip
    leave()
    if place()[0]:
        return
    write_json(run / f"evaluation-{Path(classes).stem}.json", {"data": data, **result.as_json()})
    if as_json:
        print(json.dumps(result.as_json(), indent=2))
    else:
        _show(result)


def predict(
    run: Run,
    photos: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show per photo.")] = 5,
    classes: Annotated[
        str | None, typer.Option(help='Any class names, also new ones: "red panda, tabby, ..."')
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    device: Device = None,
) -> None:
    """Tell what photos show."""
    from restore_vlm.classifier import Classifier
    from restore_vlm.terminal import bars, table

    if as_json and as_csv:
        raise UserError("Choose one of --json and --csv.")
    names = [n.strip() for n in classes.split(",") if n.strip()] if classes is not None else None
    with bars() as display:
        found = Classifier.load(run, device).predict(
            list(photos), names, top, lambda done: display.move("photos", done, len(photos))
        )
    rows: list[dict[str, Any]] = [
        {"photo": str(photo), "rank": rank, "class": name, "probability": round(probability, 6)}
        for photo, prediction in zip(photos, found, strict=True)
        for rank, (name, probability) in enumerate(
            zip(prediction.classes, prediction.probabilities, strict=True), start=1
        )
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, ["photo", "rank", "class", "probability"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        cells = [
            [str(r["photo"]) if r["rank"] == 1 else "", r["class"], f"{100 * r['probability']:.1f}"]
            for r in rows
        ]
        table("Predictions", "photo", "class", "%", rows=cells)


def _show(result: Evaluation) -> None:
    from restore_vlm.terminal import percent, table

    low, high = result.interval
    summary = [
        ["accuracy, %", f"{percent(result.accuracy)} (95 % interval {percent(low)} to {percent(high)})"],
        ["images", str(result.images)],
        ["classes", str(len(result.classes))],
        ["expected calibration error, %", percent(result.calibration_error)],
    ]
    table("Result", "", "", rows=summary)
    ranked = sorted(result.per_class.items(), key=lambda pair: (pair[1] is None, pair[1]))
    table("Per class, worst first", "class", "accuracy, %", rows=[[n, percent(a)] for n, a in ranked[:20]])
    if result.confusions:
        rows = [[c["true"], c["predicted"], str(c["count"])] for c in result.confusions]
        table("Most frequent mistakes", "shows", "taken for", "times", rows=rows)


def _show_comparison(found: Comparison | None) -> None:
    from restore_vlm.terminal import err, out, percent, table

    if found is None:
        err.print(
            "No validation photos, so nothing is said of how good this is: classes of 5 or more give some."
        )
        return
    where = "validation photos, on which its settings were chosen" if found.reused else "validation photos"
    rows = [
        [s.method, percent(s.accuracy), f"{percent(s.interval[0])} to {percent(s.interval[1])}"]
        for s in found.scores
    ]
    rows.append(["guessing", percent(1 / found.classes), ""])
    title = f"{found.photos} {where}, {found.classes} classes"
    table(title, "", "accuracy, %", "95 % interval", rows=rows)
    out.print(found.verdict, highlight=False, markup=False)
