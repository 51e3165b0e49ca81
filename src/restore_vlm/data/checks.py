"""Looking at every image once, before training: unreadable ones, and train images in the test set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from restore_vlm.data.dataset import Dataset, Item
from restore_vlm.data.images import inspect
from restore_vlm.data.text import listing
from restore_vlm.errors import UserError


@dataclass
class Report:
    """What was found.

    Attributes:
        bad: Reason for each image that cannot be used.
        hashes: sha256 (hex) of the content of every other file.
    """

    bad: dict[Path, str]
    hashes: dict[Path, str]


def check(
    dataset: Dataset, skip_bad: bool, progress: Callable[[int], None] | None = None
) -> tuple[Dataset, Report]:
    """Inspects the train, val and test images, each file once.

    Args:
        dataset: To be checked.
        skip_bad: Whether to go on without the images that cannot be used.
        progress: Called after each file with the number of files done so far.

    Returns:
        The dataset without its bad images, and what was found.

    Raises:
        UserError: If there are bad images and ``skip_bad`` is False, or a class loses its last
            training image.
    """
    every = [item.path for items in (dataset.train, dataset.val, dataset.test) for item in items]
    hashes, bad = inspect(every, progress)
    if bad and not skip_bad:
        reasons = listing([f"{path} ({reason})" for path, reason in bad.items()])
        raise UserError(
            f"{len(bad)} of {len(hashes) + len(bad)} images cannot be used: {reasons}; "
            "replace or remove them, or go on without them with --skip-bad-images."
        )
    good = _without(dataset, bad) if bad else dataset
    return good, Report(bad, hashes)


def _without(dataset: Dataset, bad: dict[Path, str]) -> Dataset:
    def kept(items: list[Item]) -> list[Item]:
        return [item for item in items if item.path not in bad]

    train = kept(dataset.train)
    lost = {item.label for item in dataset.train} - {item.label for item in train}
    if lost:
        names = listing([repr(dataset.classes[label]) for label in sorted(lost)])
        raise UserError(
            f"Without the images that cannot be used, no training image is left of {names}; "
            "replace the images or remove the class."
        )
    return replace(dataset, train=train, test=kept(dataset.test), val=kept(dataset.val))


def same_content(dataset: Dataset, hashes: dict[Path, str]) -> list[tuple[Path, Path]]:
    """(train, test) pairs of images with the same content.

    Args:
        dataset: Its training and test images.
        hashes: Of the content of every image, from :class:`Report`.
    """
    by_hash: dict[str, list[Path]] = {}
    for path in dict.fromkeys(item.path for item in dataset.train):
        by_hash.setdefault(hashes[path], []).append(path)
    paths = dict.fromkeys(item.path for item in dataset.test)
    return [(mine, path) for path in paths for mine in by_hash.get(hashes[path], [])]
