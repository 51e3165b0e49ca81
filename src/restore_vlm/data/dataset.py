"""What a dataset is, whatever it was read from, and parts of it by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from restore_vlm.errors import UserError, unknown
from restore_vlm.runtime.files import is_file, read_text


@dataclass(frozen=True)
class Item:
    """One labelled image.

    Attributes:
        path: Its file.
        label: Index of its class.
    """

    path: Path
    label: int


@dataclass
class Dataset:
    """Labelled images.

    Attributes:
        name: What tables call it.
        classes: Class names by label.
        train: Images to learn from, or all of them where ``split`` is False.
        test: Images to measure on.
        val: Images to choose settings on.
        split: Whether the source says which images are for what.
    """

    name: str
    classes: list[str]
    train: list[Item]
    test: list[Item]
    val: list[Item]
    split: bool


def same_name(name: str) -> str:
    """The form in which two names of one class are equal: case and underscores do not count."""
    return " ".join(name.replace("_", " ").casefold().split())


def select_classes(dataset: Dataset, which: str | Path | Sequence[str]) -> Dataset:
    """Keeps some classes, relabelled from 0.

    Args:
        dataset: Where to take them from.
        which: ``all``, ``base`` (the first ceil(n/2) labels), ``novel`` (the rest), a text file
            with one class name per line, or the names; a file's or a list's order is the order of
            the new labels.

    Raises:
        UserError: If a name is unknown or given twice, none is given, or there is no such file.
    """
    count = len(dataset.classes)
    half = (count + 1) // 2
    if which == "all":
        return dataset
    if which == "base":
        return _keep(dataset, range(half))
    if which == "novel":
        if half == count:
            raise UserError(f"{dataset.name} has {count} class(es), too few for novel ones; it needs 2.")
        return _keep(dataset, range(half, count))
    if isinstance(which, str | Path):
        return _keep(dataset, _labels(dataset, _names_in(Path(which)), f" in {which}"))
    return _keep(dataset, _labels(dataset, which, ""))


def _names_in(path: Path) -> list[str]:
    if not is_file(path):
        raise UserError(
            f"Classes {str(path)!r} are neither 'all', 'base' nor 'novel', and there is no such file; "
            "give one of these or a text file with one class name per line."
        )
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _labels(dataset: Dataset, names: Sequence[str], where: str) -> list[int]:
    """The labels of the names; ``where`` is for messages."""
    if not names:
        raise UserError(f"No class is named{where}; name at least one of {dataset.name}.")
    exact = {name: label for label, name in enumerate(dataset.classes)}
    loose = {same_name(name): label for label, name in enumerate(dataset.classes)}
    labels: list[int] = []
    for name in names:
        label = exact.get(name, loose.get(same_name(name)))
        if label is None:
            raise unknown(f"class of {dataset.name}{where}", name, dataset.classes)
        if label in labels:
            raise UserError(f"The class {name!r} is named twice{where}; name it once.")
        labels.append(label)
    return labels


def _keep(dataset: Dataset, labels: Sequence[int]) -> Dataset:
    new = {label: i for i, label in enumerate(labels)}

    def kept(items: list[Item]) -> list[Item]:
        return [Item(item.path, new[item.label]) for item in items if item.label in new]

    return replace(
        dataset,
        classes=[dataset.classes[label] for label in labels],
        train=kept(dataset.train),
        test=kept(dataset.test),
        val=kept(dataset.val),
    )
