"""Photos to choose settings on and to compare methods on: neither of training nor of test."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

from restore_vlm.data.dataset import Dataset, Item
from restore_vlm.data.fewshot import VAL_SHOTS

MOST = 1000
"""Photos to report on; the interval of a proportion of 1,000 is at most 6.2 points wide."""
FEWEST = 5
"""Photos of a class below which none is held back."""


@dataclass(frozen=True)
class Validation:
    """Validation photos of the classes that are trained on.

    Attributes:
        choosing: To choose hyper-parameters on: at most ``min(shots, 4)`` per class, as published.
        reporting: To compare methods on: at most 1,000, evenly over the classes.
        held_back: How many would otherwise have been trained on.
    """

    choosing: list[Item]
    reporting: list[Item]
    held_back: int = 0

    def apart(self) -> Validation:
        """As it is for a method that chooses settings: it is reported on other photos, if there are any."""
        chosen = set(self.choosing)
        others = [item for item in self.reporting if item not in chosen]
        return replace(self, reporting=others or self.reporting)


def validation_photos(
    full: Dataset,
    few: Dataset,
    shots: int | None,
    seed: int,
    hashes: dict[Path, str],
    fraction: float,
    published: bool,
) -> tuple[Dataset, Validation]:
    """Finds validation photos of a few-shot sample.

    They are those of the data set's own validation split, if it has one. Else they are training photos
    that were not drawn; a class that has fewer of these than ``fraction`` of its sample gives up
    photos of the sample instead, at least one and unless it has fewer than 5 in all. Photos with the
    content of one that is trained or tested on are left out.

    Args:
        full: All photos of the classes.
        few: The sample of them, see :func:`restore_vlm.data.sample`.
        shots: Of the sample; None is all.
        seed: Of what is drawn here.
        hashes: Of the content of every image.
        fraction: Of each class's sample, between 0 and 1.
        published: Whether the sample is a published one, which is never made smaller.

    Returns:
        The sample, smaller by what is held back, and the validation photos.
    """
    held: set[Item] = set()
    if full.val:
        pool, choosing = list(full.val), list(few.val)
    else:
        drawn = set(few.train)
        pool = [item for item in full.train if item not in drawn]
        if not published:
            held = _held_back(few.train, pool, fraction, seed)
        pool += [item for item in few.train if item in held]
        few = _without(full, few, held)
        choosing = []
    seen = {hashes[item.path] for item in (*few.train, *full.test)}
    groups = _by_class([item for item in pool if hashes[item.path] not in seen], seed)
    if full.val:
        choosing = [item for item in choosing if hashes[item.path] not in seen]
    else:
        most = min(shots or VAL_SHOTS, VAL_SHOTS)
        choosing = [item for group in groups for item in group[: min(most, math.ceil(len(group) / 2))]]
    rounds = [item for i in range(max(map(len, groups), default=0)) for g in groups for item in g[i : i + 1]]
    return few, Validation(choosing, rounds[:MOST], len(held))


def _held_back(sample: list[Item], rest: list[Item], fraction: float, seed: int) -> set[Item]:
    """What classes with too few photos left give up of their sample."""
    held: set[Item] = set()
    for label in sorted({item.label for item in sample}):
        mine = [item for item in sample if item.label == label]
        left = sum(item.label == label for item in rest)
        wanted = max(1, int(fraction * len(mine))) if len(mine) + left >= FEWEST else 0
        if wanted > left:
            held.update(random.Random(f"hold back {seed} {label}").sample(mine, wanted - left))
    return held


def _without(full: Dataset, few: Dataset, held: set[Item]) -> Dataset:
    train = [item for item in few.train if item not in held]
    if full.split:
        return replace(few, train=train)
    taken = set(train)
    return replace(few, train=train, test=[item for item in full.train if item not in taken])


def _by_class(items: list[Item], seed: int) -> list[list[Item]]:
    """The items of each class in an order drawn from the seed."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    for label, group in groups.items():
        random.Random(f"order {seed} {label}").shuffle(group)
    return [groups[label] for label in sorted(groups)]
