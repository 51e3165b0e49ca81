"""The 15 datasets of the benchmark as data: ``datasets.toml`` read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from restore_vlm.errors import UserError, unknown
from restore_vlm.runtime.files import bundled, is_folder, parse_toml


@dataclass(frozen=True)
class Counts:
    """What the publications count.

    Attributes:
        classes: Classes.
        train: Training images; 0 where a dataset is for test alone.
        val: Validation images; 0 where there are none.
        test: Test images.
    """

    classes: int
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class Download:
    """One file of a dataset on the net.

    Attributes:
        url: Where it is.
        makes: The file or folder, relative to the dataset's, that is there afterwards.
        checksum: ``md5:HEX`` or ``sha256:HEX`` as published, or empty.
        strip: The folder of the archive that becomes the dataset's folder; empty for its top.
        inner: An archive in the archive, unpacked too.
        optional: Whether the dataset can be used without it.
    """

    url: str
    makes: str
    checksum: str = ""
    strip: str = ""
    inner: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Entry:
    """One dataset of the benchmark.

    Attributes:
        name: What commands and recipes call it.
        title: What tables call it.
        folder: Its folder below the root.
        images: The folder in it that image paths start from.
        reader: Which function of `restore_vlm.data.catalogue.readers` reads its labels.
        template: The published hand-written prompt, with ``{}`` for the class name.
        counts: The published numbers.
        home: Its publisher's page.
        licence: Under what terms the images are had.
        manual: How to get it by hand, one step a line.
        split: Its split file, or empty where the publisher's own files say what is for what.
        labels: Files the split is made from where the split file is absent.
        parts: Folders that hold the images.
        ignore: Class folders left out.
        rename: Class names by class folder, where they differ.
        size: Of the downloads, roughly.
        downloads: Files that :func:`fetch` gets; none where the terms or the server do not let it.
    """

    name: str
    title: str
    folder: str
    images: str
    reader: str
    template: str
    counts: Counts
    home: str
    licence: str
    manual: tuple[str, ...]
    split: str = ""
    labels: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    size: str = ""
    downloads: tuple[Download, ...] = ()

    @property
    def for_test_only(self) -> bool:
        """Whether nothing of it is trained on."""
        return self.counts.train == 0

    def instructions(self, root: Path) -> list[str]:
        """How to get the dataset by hand into ``root``, one step a line."""
        return [step.format(folder=root / self.folder, home=self.home) for step in self.manual]

    def split_step(self, root: Path) -> str:
        """The step that gets the published split file, or an empty text where there is none."""
        return next((step for step in self.instructions(root) if "published split" in step), "")

    def advice(self, root: Path) -> str:
        """What to do where the dataset, or some of it, is missing."""
        if self.downloads:
            return f"get it with: restore-vlm datasets fetch {self.name} --root {root}"
        return f"restore-vlm datasets fetch {self.name} --root {root} tells how to get it"

    def repair(self, root: Path) -> str:
        """What to do where files of the dataset are missing or damaged."""
        if self.downloads:
            return f"replace them, or {self.advice(root)} --again"
        return f"replace them; {self.advice(root)}"


def dataset_entry(name: str) -> Entry:
    """The entry of a dataset by name, title or folder, case and punctuation not counting.

    Raises:
        UserError: If there is none, with the nearest name.
    """
    for entry in DATASETS.values():
        if _plain(name) in {_plain(known) for known in (entry.name, entry.title, entry.folder)}:
            return entry
    raise unknown("dataset", name, DATASETS)


def recognise(folder: Path) -> Entry | None:
    """The dataset a folder holds, by its name and the image folders in it, or None."""
    name = folder.absolute().name
    for entry in DATASETS.values():
        if entry.folder == name and all(is_folder(folder / part) for part in entry.parts):
            return entry
    return None


def check_root(root: Path) -> Path:
    """The root as a path.

    Raises:
        UserError: If it is not a folder.
    """
    root = Path(root).expanduser()
    if not is_folder(root):
        raise UserError(f"There is no folder {root}; give the one that holds the datasets' folders.")
    return root


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _entry(name: str, table: dict[str, Any]) -> Entry:
    table["counts"] = Counts(*table["counts"])
    table["downloads"] = tuple(Download(**d) for d in table.get("downloads", ()))
    table["parts"] = tuple(table.get("parts", [table["images"]]))
    for key in ("manual", "labels", "ignore"):
        table[key] = tuple(table.get(key, ()))
    return Entry(name=name, **table)


def _read() -> dict[str, Entry]:
    tables = parse_toml(bundled(__package__, "datasets.toml"))
    return {name: _entry(name, table) for name, table in tables.items()}


DATASETS: dict[str, Entry] = _read()
"""The datasets by name, in the order of the publications' tables."""
