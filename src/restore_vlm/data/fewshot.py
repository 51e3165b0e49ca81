"""The published few-shot samples."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from restore_vlm.data.dataset import Dataset, Item
from restore_vlm.errors import UserError

VAL_SHOTS = 4


def sample(dataset: Dataset, shots: int | None, seed: int) -> Dataset:
    """Takes ``shots`` training images per class, the very ones of the published experiments.

    Base or novel classes are selected after sampling, never before: the draws of a class depend
    on the classes before it. Where the source had no split of its own, the training images not
    taken become the test images. Source: ``generate_fewshot_dataset`` of Dassl/CoOp
    (arXiv 2109.01134).

    Args:
        dataset: All its classes.
        shots: Images per class; None takes everything.
        seed: Of the sample.

    Raises:
        UserError: If ``shots`` is below 1.
    """
    if shots is None:
        return dataset
    if shots < 1:
        raise UserError(f"{shots} shots cannot be sampled; give at least 1.")
    rng = random.Random(seed)
    train = _draw(dataset.train, shots, rng)
    val = _draw(dataset.val, min(shots, VAL_SHOTS), rng)
    if dataset.split:
        return replace(dataset, train=train, val=val)
    taken = set(train)
    rest = [item for item in dataset.train if item not in taken]
    return replace(dataset, train=train, val=val, test=rest, split=True)


def short_classes(dataset: Dataset, shots: int) -> dict[str, int]:
    """The number of training images of each class that has fewer than ``shots``."""
    counts = Counter(item.label for item in dataset.train)
    return {name: counts[i] for i, name in enumerate(dataset.classes) if counts[i] < shots}


def _draw(items: list[Item], shots: int, rng: random.Random) -> list[Item]:
    by_class: dict[int, list[Item]] = {}
    for item in items:
        by_class.setdefault(item.label, []).append(item)
    drawn: list[Item] = []
    for group in by_class.values():
        drawn += rng.sample(group, shots) if len(group) >= shots else group
    return drawn
