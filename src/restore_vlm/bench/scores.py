"""Accuracies of cells to means over seeds, averages over datasets, and the best of a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from restore_vlm.bench.datasets import catalogued_template
from restore_vlm.bench.plan import TEMPLATE, Cell
from restore_vlm.bench.store import Store
from restore_vlm.evaluation.statistics import harmonic_mean

DIGITS = 2

Series = Mapping[int, float | None]
"""Per seed a score in %, None where the run is not done."""


@dataclass(frozen=True)
class Score:
    """One entry of a table.

    Attributes:
        mean: In %; None where no seed is done.
        std: Standard deviation over seeds (n - 1); None for one seed, or where seeds do not matter.
        done: Seeds that are done.
        seeds: Seeds asked for.
    """

    mean: float | None
    std: float | None = None
    done: int = 1
    seeds: int = 1

    @property
    def complete(self) -> bool:
        return self.mean is not None and self.done == self.seeds


def score(series: Series, seedless: bool = False) -> Score:
    """Mean and spread of what is done.

    >>> score({1: 60.0, 2: 62.0, 3: None})
    Score(mean=61.0, std=1.4142135623730951, done=2, seeds=3)
    """
    values = [v for v in series.values() if v is not None]
    if not values:
        return Score(None, None, 0, len(series))
    spread = stdev(values) if len(values) > 1 and not seedless else None
    return Score(values[0] if seedless else mean(values), spread, len(values), len(series))


def combine(rule: Callable[[Sequence[float]], float], parts: Sequence[Series]) -> Series:
    """Applies ``rule`` seed by seed; None where a part lacks the seed."""
    seeds = sorted({seed for part in parts for seed in part})
    rows = {seed: [part.get(seed) for part in parts] for seed in seeds}
    return {
        seed: None if None in row or not row else rule([v for v in row if v is not None])
        for seed, row in rows.items()
    }


def hm(base: Series, novel: Series) -> Series:
    """Harmonic mean, seed by seed."""
    return combine(lambda pair: harmonic_mean(*pair), (base, novel))


def hm_score(base: Series, novel: Series, seedless: bool = False) -> Score:
    """HM of the two means over the seeds that have both, as papers report it; its spread is that of the HMs.

    >>> hm_score({1: 60.0, 2: 80.0}, {1: 60.0, 2: 40.0}).mean
    58.333333333333336
    """
    each = hm(base, novel)
    both = [[v for seed, v in half.items() if each[seed] is not None] for half in (base, novel)]
    means = [mean(v for v in half if v is not None) for half in both if half]
    return replace(score(each, seedless), mean=harmonic_mean(*means) if means else None)


def average(parts: Sequence[Series]) -> Series:
    """Mean over datasets, seed by seed."""
    return combine(mean, parts)


def best(scores: Iterable[Score | None]) -> set[int]:
    """The places of the highest mean as printed; incomplete scores do not compete."""
    printed = {
        i: round(s.mean, DIGITS)
        for i, s in enumerate(scores)
        if s is not None and s.complete and s.mean is not None
    }
    top = max(printed.values(), default=None)
    return {i for i, value in printed.items() if value == top}


class Board:
    """The scores of the cells of one table.

    Args:
        cells: Of one protocol.
        store: Where their results are.
    """

    def __init__(self, cells: Sequence[Cell], store: Store) -> None:
        self.cells = list(cells)
        self.results = {cell: store.result(cell) for cell in self.cells}
        self.failures = {c: store.failure(c) for c, r in self.results.items() if r is None}
        self.doubtful = _doubtful(self.results, store)

    def distinct(self, name: str, **where: object) -> list:
        """The values of a cell's attribute in order of first appearance."""
        return list(dict.fromkeys(getattr(c, name) for c in self._at(**where)))

    def series(self, **where: object) -> Series:
        """Accuracy in % per seed of the cells that have all these attributes."""
        found = {}
        for cell in self._at(**where):
            result = self.results[cell]
            found[cell.seed] = None if result is None else 100 * result["accuracy"]
        return found

    def seedless(self, **where: object) -> bool:
        """Whether the very same runs serve all seeds."""
        cells = self._at(**where)
        return (
            len(cells)
            > len({(c.run, c.test) for c in cells})
            == len({(c.source, c.dataset, c.part, c.shots) for c in cells})
        )

    def notes(self) -> list[str]:
        """What is failed, with its reason, what is missing, and what may have been asked in other words."""
        by_run = {cell.run: cell for cell in self.failures}.values()
        failed = [f"failed: {c.label}: {self.failures[c]}" for c in by_run if self.failures[c]]
        lacking = [f"missing: {c.label}" for c in self.failures if not self.failures[c]]
        doubtful = [
            f"perhaps asked in another dataset's template; the same command computes it again: {c.label}"
            for c in self.doubtful
        ]
        return failed + lacking + doubtful

    def _at(self, **where: object) -> list[Cell]:
        return [c for c in self.cells if all(getattr(c, n) == v for n, v in where.items())]


def _doubtful(results: Mapping[Cell, Mapping[str, Any] | None], store: Store) -> list[Cell]:
    """Cells whose result does not say its template, where another test of the run had one of its own.

    Before results said it, a dataset without a template was asked in that of the dataset before it.
    """
    found = []
    for cell, result in results.items():
        if result is None or "template" in result or _own_template(cell):
            continue
        others = {_own_template(c) for c in results if c.run == cell.run} - {None}
        if not others:
            continue
        trained = _template_of_training(cell, store)
        if trained and others - {trained}:
            found.append(cell)
    return found


def _own_template(cell: Cell) -> str | None:
    """That of a dataset which is not the one trained on."""
    return None if cell.dataset == cell.source else catalogued_template(cell.dataset)


def _template_of_training(cell: Cell, store: Store) -> str | None:
    """None where the method fixes it, for tests too."""
    recipe = store.recipe(cell)
    prompts = recipe.get("prompts") or {}
    known = {TEMPLATE, catalogued_template(cell.source)}
    template = recipe.get("template")
    return template if template in known and prompts.get("towers") != "image" else None
