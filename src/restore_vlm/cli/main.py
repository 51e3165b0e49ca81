"""The command line; each command is a thin call into the package."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restore_vlm.cli.bench import bench
from restore_vlm.cli.datasets import app as datasets
from restore_vlm.cli.figures import figures, study
from restore_vlm.cli.report import report
from restore_vlm.cli.shift import shift
from restore_vlm.errors import UserError

if TYPE_CHECKING:
    from restore_vlm.evaluation import Comparison, Evaluation
    from restore_vlm.terminal import Bars
    from restore_vlm.training import Progress

app = typer.Typer(
    name="restore-vlm",
    help="Adapt a CLIP from a few labelled photos and keep the classes it never saw.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.add_typer(datasets, name="datasets")
app.add_typer(study, name="study")


SHARED = ("train", "evaluate")
"""Commands that several processes can work on together."""
GRACE = 5.0
"""Seconds that a launcher has to end a process after another has stopped."""


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


Data = Annotated[str, typer.Argument(help="Image folder, CSV or JSON-lines manifest, or benchmark folder.")]
Run = Annotated[Path, typer.Argument(help="A run folder of restore-vlm train.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting: prompts.depth=6, surgery=none, training.lr=0.002."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad-images", help="Go on without unreadable images.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is by default.")]


@app.callback()
def one_voice(context: typer.Context) -> None:
    """Where several processes work on one command, the first of them speaks."""
    rank, count = _place()
    if count > 1 and context.invoked_subcommand not in SHARED:
        raise UserError(f"Several processes share {' and '.join(SHARED)} only; start this command once.")
    if rank:
        from restore_vlm.terminal import err, out

        out.quiet = err.quiet = True


@app.command()
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
            data, method, backbone, _shots(shots), seed, classes, settings or (), folder, _progress(display),
            _validation(validation), recipe=recipe, names=str(names) if names else None,
            precision=precision.value, device=device, skip_bad_images=skip_bad_images, log_shift=log_shift,
        )  # fmt: skip
    if not _place()[0] and validation != "none":
        _show_comparison(classifier.validation)
    err.print(
        f"Learned {len(classifier.classes)} classes with {Path(method).stem}: [bold]{folder}[/]",
        highlight=False,
    )
    err.print(f"Next: restore-vlm evaluate {folder} --data {data}", highlight=False)
    err.print(f"      restore-vlm predict {folder} PHOTO ...", highlight=False)
    leave()


@app.command()
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
            data, which, skip_bad_images, _progress(display),
            lambda done, total: display.move("testing", done, total),
        )  # fmt: skip
    leave()
    if _place()[0]:
        return
    write_json(run / f"evaluation-{Path(classes).stem}.json", {"data": data, **result.as_json()})
    if as_json:
        print(json.dumps(result.as_json(), indent=2))
    else:
        _show(result)


@app.command()
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


@app.command()
def demo(
    seeds: Annotated[int, typer.Option(min=1, max=3, help="How many of the seeds 1-3.")] = 3,
    out: Annotated[Path, typer.Option(help="Where table, picture and runs go.")] = Path("demo"),
) -> None:
    """Adapt the bundled CLIP to bundled thermal-camera photos by four methods and compare them."""
    from restore_vlm.demo import run_demo

    run_demo(range(1, seeds + 1), out)


@app.command()
def methods(
    method: Annotated[str | None, typer.Argument(help="Show the settings of one method.")] = None,
    recipe: Annotated[str, typer.Option(help="default, or one of the method's recipes.")] = "default",
) -> None:
    """List the methods, or show the settings of one."""
    import tomli_w

    from restore_vlm.method import describe
    from restore_vlm.method.presets import load_recipe, recipes
    from restore_vlm.method.presets import methods as known
    from restore_vlm.terminal import table

    if method is None:
        rows, datasets = [], recipes("clip")[1:]
        for name in known():
            parts, short = load_recipe(name), describe.short_recipes(recipes(name), datasets)
            words = describe.learned(parts), describe.rules(parts), short, describe.short_source(parts)
            rows.append([name, *words])
        table("Methods", "method", "learns", "learns by", "recipes", "source", rows=rows, words=True)
        return
    print(f"# Recipes of {method}: {', '.join(recipes(method))}. This is {recipe}.")
    print(tomli_w.dumps(describe.essential(load_recipe(method, recipe))), end="")


def _shots(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit() or int(text) == 0:
        raise UserError(f"--shots {text!r} is neither a positive number nor all.")
    return int(text)


def _validation(text: str) -> float | None:
    if text == "none":
        return None
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(f"--validation {text!r} is neither a share between 0 and 1 nor none.")
    return share


def _progress(display: Bars) -> Progress:
    from restore_vlm.training import Progress

    apart = ""

    def step(done: int, total: int, metrics: dict[str, float]) -> None:
        display.move("training", done, total, f"loss {metrics['loss']:.3f}{apart}")

    def shift(line: dict[str, Any]) -> None:
        nonlocal apart
        apart = f", discrepancy {line['discrepancy']:.3f}"

    return Progress(
        say=display.say,
        checked=lambda done, total: display.move("checking images", done, total),
        fitted=lambda done, total: display.move("encoding images", done, total),
        compared=lambda done, total: display.move("comparing", done, total),
        on_step=step,
        on_shift=shift,
    )


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


app.command()(shift)
app.command()(figures)
app.command()(report)


def _place() -> tuple[int, int]:
    """The rank of this process and how many there are, as launchers say it."""
    return int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)


def _say(text: str) -> None:
    """Prints to the error stream; most problems are those of all processes, and told by the first.

    Launchers end the others once one has stopped, so what they have to say waits a moment.
    """
    rank, count = _place()
    if rank:
        time.sleep(GRACE)
        text = f"{text} (process {rank} of {count})"
    print(text, file=sys.stderr)


def main() -> None:
    """Runs the command line; bad input ends with one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        _say(f"Error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        _say("Stopped; the same command goes on where it was.")
        sys.exit(130)


if __name__ == "__main__":
    main()
