"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restore_vlm.errors import UserError

if TYPE_CHECKING:
    from restore_vlm.terminal import Bars
    from restore_vlm.training import Progress


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


SkipBad = Annotated[bool, typer.Option("--skip-bad-images", help="Go on without unreadable images.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is by default.")]
Classes = Annotated[str, typer.Option(help="all, base, novel, or a file of class names.")]


def names(option: str, text: str) -> list[str]:
    """The comma-separated names of an option.

    Raises:
        UserError: If there is none.
    """
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise UserError(f"--{option} names nothing; give one or more, separated by commas.")
    return found


def numbers(option: str, text: str) -> list[int]:
    """The comma-separated numbers from 1 of an option.

    Raises:
        UserError: If it is anything else.
    """
    found = names(option, text)
    if not all(n.isdecimal() and int(n) > 0 for n in found):
        raise UserError(f"--{option} {text!r} are not numbers from 1, such as 1,2,3.")
    return [int(n) for n in found]


def shots_per_class(text: str) -> int | None:
    """``--shots``: a number from 1, or None for all.

    Raises:
        UserError: If it is neither.
    """
    if text == "all":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"--shots {text!r} is neither a number from 1 nor all.")
    return int(text)


def validation_share(text: str) -> float | None:
    """``--validation``: a share between 0 and 1, or None for none.

    Raises:
        UserError: If it is neither.
    """
    if text == "none":
        return None
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(f"--validation {text!r} is neither a share between 0 and 1 nor none.")
    return share


def progress_on(display: Bars) -> Progress:
    """Callbacks that move the bars of a display."""
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


def place() -> tuple[int, int]:
    """The rank of this process and how many there are, as launchers say it."""
    return int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
