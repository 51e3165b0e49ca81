"""Results to means over seeds, averages over datasets, and the best of a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from restore_vlm.bench.datasets import catalogued_template
from restore_vlm.bench.plan import TEMPLATE, ResultKey
from restore_vlm.bench.store import Store
from restore_vlm.evaluation.protocol import Measure, Term
from restore_vlm.evaluation.protocols import get_protocol

DIGITS = 2

BySeed = Mapping[int, float | None]
"""Per seed a number in %, None where the run is not done."""


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


def score(numbers: BySeed, seedless: bool = False) -> Score:
    """Mean and spread of what is done.

    >>> score({1: 60.0, 2: 62.0, 3: None})
    Score(mean=61.0, std=1.4142135623730951, done=2, seeds=3)
    """
    values = [v for v in numbers.values() if v is not None]
    if not values:
        return Score(None, None, 0, len(numbers))
    spread = stdev(values) if len(values) > 1 and not seedless else None
    return Score(values[0] if seedless else mean(values), spread, len(values), len(numbers))


def combine(rule: Callable[[Sequence[float]], float], parts: Sequence[BySeed]) -> BySeed:
    """Applies ``rule`` seed by seed; None where a part lacks the seed."""
    seeds = sorted({seed for part in parts for seed in part})
    rows = {seed: [part.get(seed) for part in parts] for seed in seeds}
    return {
        seed: None if None in row or not row else rule([v for v in row if v is not None])
        for seed, row in rows.items()
    }


def measured(measure: Measure, terms: Sequence[BySeed], seedless: bool = False) -> Score:
    """A measure of the means of its terms over the seeds that have all, as papers report HM.

    Its spread is that of each seed's.

    >>> from restore_vlm.evaluation.protocols.base_to_novel import HM
    >>> measured(HM, [{1: 60.0, 2: 80.0}, {1: 60.0, 2: 40.0}]).mean
    58.333333333333336
    """
    each = by_seed(measure, terms)
    whole = [[v for seed, v in term.items() if each[seed] is not None and v is not None] for term in terms]
    means = [mean(values) for values in whole if values]
    return replace(score(each, seedless), mean=measure.combine(*means) if means else None)


def by_seed(measure: Measure, terms: Sequence[BySeed]) -> BySeed:
    """A measure of each seed's terms."""
    return combine(lambda values: measure.combine(*values), terms)


def average(parts: Sequence[BySeed]) -> BySeed:
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


class Results:
    """What the tests of one grid found.

    Args:
        keys: Of one protocol.
        store: Where they are.

    Attributes:
        protocol: Theirs.
        found: The fields of :class:`restore_vlm.bench.store.TestResult`, None where a test is not done.

    Raises:
        UserError: If there is no such protocol.
    """

    def __init__(self, keys: Sequence[ResultKey], store: Store) -> None:
        self.keys, self.protocol = list(keys), get_protocol(keys[0].protocol)
        self.found = {key: store.done(key) for key in self.keys}
        self.failures = {key: store.failure(key) for key, result in self.found.items() if result is None}
        self.doubtful = _doubtful(self.found, store)

    def distinct(self, name: str, **where: object) -> list:
        """The values of a key's attribute in order of first appearance."""
        return list(dict.fromkeys(getattr(key, name) for key in self._at(**where)))

    def by_seed(self, term: Term, **where: object) -> BySeed:
        """A term of each seed of the results that have all these attributes."""
        found = {}
        for key in self._at(part=term.part, **where):
            result = self.found[key]
            found[key.seed] = None if result is None else term.value(result)
        return found

    def seedless(self, term: Term, **where: object) -> bool:
        """Whether the very same run serves all seeds."""
        keys = self._at(part=term.part, **where)
        return len(keys) > 1 and len({(key.run, key.test) for key in keys}) == 1

    def notes(self) -> list[str]:
        """What is failed, with its reason, what is missing, and what may have been asked in other words."""
        by_run = {key.run: key for key in self.failures}.values()
        failed = [f"failed: {key.label}: {self.failures[key]}" for key in by_run if self.failures[key]]
        lacking = [f"missing: {key.label}" for key in self.failures if not self.failures[key]]
        doubtful = [
            f"perhaps asked in another dataset's template; the same command computes it again: {key.label}"
            for key in self.doubtful
        ]
        return failed + lacking + doubtful

    def _at(self, **where: object) -> list[ResultKey]:
        return [key for key in self.keys if all(getattr(key, n) == v for n, v in where.items())]


def _doubtful(results: Mapping[ResultKey, Mapping[str, Any] | None], store: Store) -> list[ResultKey]:
    """Results whose result does not say its template, where another test of the run had one of its own.

    Before results said it, a dataset without a template was asked in that of the dataset before it.
    """
    found = []
    for key, result in results.items():
        if result is None or "template" in result or _own_template(key):
            continue
        others = {_own_template(k) for k in results if k.run == key.run} - {None}
        if not others:
            continue
        trained = _template_of_training(key, store)
        if trained and others - {trained}:
            found.append(key)
    return found


def _own_template(key: ResultKey) -> str | None:
    """That of a dataset which is not the one trained on."""
    return None if key.dataset == key.source else catalogued_template(key.dataset)


def _template_of_training(key: ResultKey, store: Store) -> str | None:
    """None where the method fixes it, for tests too."""
    recipe = store.recipe(key)
    prompts = recipe.get("prompts") or {}
    known = {TEMPLATE, catalogued_template(key.source)}
    template = recipe.get("template")
    return template if template in known and prompts.get("towers") != "image" else None
