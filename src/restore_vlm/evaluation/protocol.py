"""What a protocol is: what is trained on, what is then tested, and the tables and measures made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from restore_vlm.errors import UserError
from restore_vlm.method.choice import Kind

Part = Literal["all", "base", "novel"]

T = TypeVar("T")
N = TypeVar("N", int, int | None)

ELEVEN = (
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft",
    "sun397", "dtd", "eurosat", "ucf101",
)  # fmt: skip
"""The datasets of the published averages (arXiv 2203.05557)."""


def accuracy(result: Mapping[str, Any]) -> float:
    """Accuracy in % of the fields of a :class:`restore_vlm.evaluation.Evaluation`."""
    return 100 * result["accuracy"]


@dataclass(frozen=True)
class Term:
    """One number of one test.

    Attributes:
        part: The classes that the test is on.
        value: Reads the number from what the test found.
    """

    part: Part = "all"
    value: Callable[[Mapping[str, Any]], float] = accuracy


@dataclass(frozen=True)
class Measure:
    """A number that methods are compared by.

    Attributes:
        name: As tables and ``bench compare --measure`` call it.
        terms: What it is computed from.
        combine: Computes it from the terms: in tables from their averages over seeds, and over datasets where
            the column says so; where runs are compared, from those of each run.
    """

    name: str
    terms: tuple[Term, ...]
    combine: Callable[..., float] = lambda term: term


@dataclass(frozen=True)
class Column:
    """A column of a table, or one for each value of a field.

    Attributes:
        measure: What is in it.
        each: ``shots`` makes a column for each number of shots, ``dataset`` one for each dataset tested on,
            the one trained on first; None makes one.
        over_targets: Whether the terms are averages over all targets.
        name: Its heading, where ``each`` gives none; empty is the measure's.
    """

    measure: Measure
    each: Literal["shots", "dataset"] | None = None
    over_targets: bool = False
    name: str = ""


@dataclass(frozen=True)
class Layout:
    """How results are laid out: a row for each method.

    Attributes:
        tables: Fields of a result; each combination of their values has a table.
        columns: Of every table.
        average: Whether, where the last field of ``tables`` is ``source``, a table of the averages over all
            sources follows theirs.
    """

    tables: tuple[Literal["source", "shots"], ...]
    columns: tuple[Column, ...]
    average: bool = False


ACCURACY = Measure("accuracy", (Term(),))
BY_DATASET = Layout(
    ("source", "shots"),
    (Column(ACCURACY, each="dataset"), Column(ACCURACY, over_targets=True, name="average of targets")),
)
"""Accuracy on each dataset tested on, and on average over the targets."""


@dataclass(frozen=True)
class Published:
    """Averages as printed in publications, shown beside those measured and never compared with them.

    Attributes:
        about: What they are of, for a note below the table.
        shots: Training images per class; tables of others do not show them.
        datasets: What they average over; tables without any of these do not show them.
        rows: Method, source of the numbers, and a number for each column, in %.
    """

    about: str
    shots: int
    datasets: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Transfer:
    """Tests on other datasets than the one trained on, beside that.

    Attributes:
        targets: The published ones of a model trained on ImageNet.
        source: What is trained on, for ``--help``.
    """

    targets: tuple[str, ...]
    source: str = "Dataset trained on."


@dataclass(frozen=True)
class EvalSet:
    """Test images of a dataset, told apart among the classes of their own part.

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
    tests: tuple[EvalSet, ...]


@dataclass(frozen=True)
class Protocol:
    """A published protocol, all of it: commands, plans, tables and comparisons are made from this alone.

    Attributes:
        name: As commands, tables and the files of a grid call it.
        summary: One sentence, for ``--help``.
        trained: Which classes of a dataset are trained on.
        tested: Which of its classes are tested, each part apart.
        recipes: The kinds of recipes that fit, what counts least first; see
            :func:`restore_vlm.method.choose_recipe`.
        layout: Its tables.
        measures: What ``bench compare`` compares; the first is the default.
        shots: Training images per class by default; of several, each is a trial.
        transfer: The tests on other datasets; None where there are none.
        published: Rows of publications.
    """

    name: str
    summary: str
    trained: Part
    tested: tuple[Part, ...]
    recipes: tuple[Kind, ...]
    layout: Layout
    measures: tuple[Measure, ...]
    shots: tuple[int, ...] = (16,)
    transfer: Transfer | None = None
    published: Published | None = None

    @property
    def varies_shots(self) -> bool:
        """Whether shots are what it compares."""
        return len(self.shots) > 1

    def trials(
        self,
        datasets: Sequence[str],
        seeds: Iterable[int],
        shots: Sequence[int | None] | None = None,
        targets: Sequence[str] = (),
    ) -> list[Trial]:
        """A trial for every dataset trained on, number of shots and seed.

        Args:
            datasets: Trained on, one after the other.
            seeds: From 1.
            shots: Training images per class, None for all; by default the protocol's own.
            targets: Other datasets to test on.

        Raises:
            UserError: If a number is below 1, anything is given twice or nothing is, a dataset is both source
                and target, or there are targets and the protocol has none.
        """
        chosen = [_positive("seed", seed) for seed in _distinct("seed", list(seeds))]
        return [
            Trial(self, dataset, self.trained, _positive("shots", k), seed, self._tests(dataset, targets))
            for dataset in _distinct("dataset", datasets)
            for k in _distinct("number of shots", self.shots if shots is None else shots)
            for seed in chosen
        ]

    def _tests(self, dataset: str, targets: Sequence[str]) -> tuple[EvalSet, ...]:
        own = tuple(EvalSet(dataset, part) for part in self.tested)
        if self.transfer is None:
            if targets:
                raise UserError(f"{self.name} has no targets; it tests on what it trains on.")
            return own
        if dataset in targets:
            raise UserError(f"{dataset!r} is both source and target; a target is another dataset.")
        return (*own, *(EvalSet(target) for target in _distinct("target", targets)))


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
