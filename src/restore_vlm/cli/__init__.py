"""The command line: every command group is a file, each command a thin call into the package."""

from __future__ import annotations

import sys
import time

import typer

from restore_vlm.cli.bench import bench
from restore_vlm.cli.datasets import app as datasets
from restore_vlm.cli.demo import demo
from restore_vlm.cli.figures import figures
from restore_vlm.cli.methods import methods
from restore_vlm.cli.options import place
from restore_vlm.cli.report import report
from restore_vlm.cli.shift import shift
from restore_vlm.cli.train import evaluate, predict, train
from restore_vlm.errors import UserError

SHARED = ("train", "evaluate")
"""Commands that several processes can work on together."""
GRACE = 5.0
"""Seconds that a launcher has to end a process after another has stopped."""

app = typer.Typer(
    name="restore-vlm",
    help="Adapt a CLIP from a few labelled photos and keep the classes it never saw.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def one_voice(context: typer.Context) -> None:
    """Where several processes work on one command, the first of them speaks."""
    rank, count = place()
    if count > 1 and context.invoked_subcommand not in SHARED:
        raise UserError(f"Several processes share {' and '.join(SHARED)} only; start this command once.")
    if rank:
        from restore_vlm.terminal import err, out

        out.quiet = err.quiet = True


for command in (train, evaluate, predict, demo, methods, shift, figures, report):
    app.command()(command)
app.add_typer(bench, name="bench")
app.add_typer(datasets, name="datasets")


def _say(text: str) -> None:
    """Prints to the error stream; most problems are those of all processes, and told by the first.

    Launchers end the others once one has stopped, so what they have to say waits a moment.
    """
    rank, count = place()
    if rank:
        time.sleep(GRACE)
        text = f"{text} (process {rank} of {count})"
    print(text, file=sys.stderr)


def main() -> None:
    """Runs the command line of the package."""
    run_app(app)


def run_app(commands: typer.Typer) -> None:
    """Runs commands; bad input ends with one sentence and exit code 2."""
    try:
        commands()
    except UserError as error:
        _say(f"Error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        _say("Stopped; the same command goes on where it was.")
        sys.exit(130)
