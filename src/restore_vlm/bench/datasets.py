"""Datasets by name under a root, and the exact images a trial trains and tests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from restore_vlm.bench.spec import anchor_of, listing
from restore_vlm.data import Dataset, Item, load_dataset, sample, select_classes, short_classes
from restore_vlm.errors import UserError, unknown
from restore_vlm.evaluation.protocol import Part

CATALOGUE = "restore_vlm.data.catalogue"


@dataclass(frozen=True)
class Subset:
    """Labelled images of a dataset for one use, training or a test.

    Attributes:
        name: Of the dataset.
        classes: By label.
        items: In order.
        digest: Of the list; see :func:`restore_vlm.bench.spec.listing`.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    digest: str


class DataRoot:
    """The datasets under a root, each read once.

    A name is one of the catalogue, a folder or manifest under the root, or a path.

    Args:
        root: The folder the datasets are in.
        warn: Told of classes with too few images.

    Raises:
        UserError: If there is no such folder.
    """

    def __init__(self, root: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        if not root.is_dir():
            raise UserError(f"There is no folder {root}; give the folder your datasets are in as --root.")
        self.root, self.warn = root, warn
        self.load, self.train, self.test = cache(self._load), cache(self._train), cache(self._test)
        self._few, self._anchor = cache(self._sample), cache(self._anchor_of)

    def names(self) -> list[str]:
        """The datasets' folders under the root."""
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))

    def template(self, name: str) -> str | None:
        """The dataset's hand-written prompt, where the catalogue has one."""
        return catalogued_template(name)

    def place(self, name: str) -> Path:
        """Where a dataset is, or would be."""
        places = [self.root / name, self.root / getattr(_catalogue().get(name), "folder", name), Path(name)]
        return next((p for p in places if p.exists()), places[1])

    def _load(self, name: str) -> Dataset:
        known, place = _catalogue(), self.place(name)
        if name in known and place == self.root / known[name].folder:
            return import_module(CATALOGUE).load_catalogued(name, self.root)
        if place.exists():
            return load_dataset(place)
        raise unknown(f"dataset under {self.root}", name, [*self.names(), *known])

    def _sample(self, name: str, shots: int | None, seed: int) -> Dataset:
        data = self.load(name)
        short = short_classes(data, shots) if shots and seed == 1 else {}
        if short:
            first, count = next(iter(short.items()))
            self.warn(
                f"{name}: {len(short)} classes have fewer than {shots} training images (such as {first} "
                f"with {count}); all of theirs are used."
            )
        return sample(data, shots, seed)

    def _train(self, name: str, part: Part, shots: int | None, seed: int) -> Subset:
        chosen = select_classes(self._few(name, shots, seed), part)
        if len(chosen.classes) < 2:
            raise UserError(f"{name} has too few classes for {part} ones; it needs at least 4.")
        return self._subset(name, chosen, chosen.train)

    def _test(self, name: str, part: Part, trained: tuple[int | None, int] | None) -> Subset:
        """``trained``: shots and seed where this dataset is the one trained on, else None."""
        data = self.load(name)
        if trained and not data.split:
            chosen = select_classes(self._few(name, *trained), part)
            items = chosen.test
        else:
            chosen = select_classes(data, part)
            items = chosen.test or chosen.val if data.split else chosen.train
        if not items:
            raise UserError(f"There is nothing to test on in {name}: all images are for training.")
        return self._subset(name, chosen, items)

    def validation(self, name: str, part: Part, shots: int | None, seed: int) -> Subset | None:
        """The published few of the dataset's own validation split; None where there is none to spare."""
        data = self.load(name)
        if not data.split or not data.val or not data.test:
            return None
        chosen = select_classes(self._few(name, shots, seed), part)
        return self._subset(name, chosen, chosen.val)

    def _subset(self, name: str, chosen: Dataset, items: list[Item]) -> Subset:
        digest = listing(items, chosen.classes, self._anchor(name))
        return Subset(name, tuple(chosen.classes), tuple(items), digest)

    def _anchor_of(self, name: str) -> Path:
        data = self.load(name)
        return anchor_of(i.path for part in (data.train, data.val, data.test) for i in part)


def catalogued_template(name: str) -> str | None:
    """The hand-written prompt that the catalogue has for a dataset."""
    return getattr(_catalogue().get(name), "template", None)


@cache
def _catalogue() -> dict[str, Any]:
    return dict(import_module(CATALOGUE).DATASETS) if find_spec(CATALOGUE) else {}
