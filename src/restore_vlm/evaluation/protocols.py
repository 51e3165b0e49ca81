"""The published protocols: what is trained on what, and what it is then tested on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from restore_vlm.errors import UserError
from restore_vlm.method.choice import SHOTS as SHOTS
from restore_vlm.method.choice import VARIANTS as VARIANTS
from restore_vlm.method.choice import Protocol

Part = Literal["all", "base", "novel"]

T = TypeVar("T")
N = TypeVar("N", int, int | None)

TARGETS = (
    "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397",
    "dtd", "eurosat", "ucf101",
)  # fmt: skip
"""Where a model trained on ImageNet is tested across datasets (arXiv 2203.05557)."""
ELEVEN = ("imagenet", *TARGETS)
"""The datasets of the published base-to-novel averages."""


@dataclass(frozen=True)
class Test:
    """Images to measure on, told apart among the classes of their own part.

    Attributes:
        dataset: Its name.
        part: Which of its classes.
    """

    dataset: str
    part: Part = "all"


@dataclass(frozen=True)
class Trial:
    """One training and all its tests; methods are no part of it.

    Attributes:
        protocol: Whose it is.
        dataset: Trained on.
        part: Which of its classes are trained on.
        shots: Training images per class; None takes all.
        seed: Of sampling, initialisation and order.
        tests: In the order of a table's columns.
    """

    protocol: Protocol
    dataset: str
    part: Part
    shots: int | None
    seed: int
    tests: tuple[Test, ...]


def base_to_novel(datasets: Sequence[str], seeds: Iterable[int], shots: int | None = 16) -> list[Trial]:
    """Trains on the first half of each dataset's classes, tests on each half apart (arXiv 2203.05557)."""
    return [
        Trial(
            "base-to-novel", d, "base", _positive("shots", shots), seed, (Test(d, "base"), Test(d, "novel"))
        )
        for d in _distinct("dataset", datasets)
        for seed in _seeds(seeds)
    ]


def cross_dataset(
    source: str, targets: Sequence[str], seeds: Iterable[int], shots: int | None = 16
) -> list[Trial]:
    """Trains on all classes of ``source``, tests on it and on the targets with their own class names."""
    return _transfer("cross-dataset", source, targets, seeds, shots)


def domain_generalisation(
    source: str, targets: Sequence[str], seeds: Iterable[int], shots: int | None = 16
) -> list[Trial]:
    """Trains on all classes of ``source``, tests on it and on its shifted variants."""
    return _transfer("domain-generalisation", source, targets, seeds, shots)


def few_shot(datasets: Sequence[str], seeds: Iterable[int], shots: Sequence[int] = SHOTS) -> list[Trial]:
    """Trains and tests on all classes, with more and more shots (arXiv 2109.01134)."""
    return [
        Trial("few-shot", d, "all", _positive("shots", k), seed, (Test(d),))
        for d in _distinct("dataset", datasets)
        for k in _distinct("number of shots", shots)
        for seed in _seeds(seeds)
    ]


def _transfer(
    protocol: Protocol, source: str, targets: Sequence[str], seeds: Iterable[int], shots: int | None
) -> list[Trial]:
    if source in targets:
        raise UserError(f"{source!r} is both source and target; a target is another dataset.")
    tests = tuple(Test(d) for d in (source, *_distinct("target", targets)))
    return [Trial(protocol, source, "all", _positive("shots", shots), seed, tests) for seed in _seeds(seeds)]


def _seeds(seeds: Iterable[int]) -> list[int]:
    return [_positive("seed", seed) for seed in _distinct("seed", list(seeds))]


def _positive(what: str, number: N) -> N:
    if number is not None and number < 1:
        raise UserError(f"{number} is not possible as {what}; give a number from 1.")
    return number


def _distinct(what: str, values: Sequence[T]) -> Sequence[T]:
    if not values:
        raise UserError(f"No {what} is given; name at least one.")
    twice = [v for i, v in enumerate(values) if v in values[:i]]
    if twice:
        raise UserError(f"The {what} {twice[0]!r} is given twice; give it once.")
    return values
