"""The layout of the few-shot benchmarks: ``split_zhou_<Name>.json`` and a folder of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from restore_vlm.data.dataset import Dataset, Item
from restore_vlm.data.folders import subfolders
from restore_vlm.data.text import listing
from restore_vlm.errors import UserError
from restore_vlm.runtime.files import intact, is_file, parse_json, read_text

PREFIX = "split_zhou_"
PARTS = ("train", "val", "test")

Row = tuple[str, int, str]
"""Image path below the folder of images, label, class name."""

Rows = dict[str, list[Row]]
"""The rows of train, val and test."""


def split_file(source: Path) -> Path | None:
    """The split file of a benchmark folder, or None where there is none.

    Raises:
        UserError: If there are several.
    """
    found = sorted(source.glob(f"{PREFIX}*.json"))
    if len(found) > 1:
        raise UserError(
            f"{source} has several splits ({listing([f.name for f in found])}); keep one of them."
        )
    return found[0] if found else None


def read_benchmark(file: Path) -> Dataset:
    """Reads a published split: ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``.

    Names and the order of the items are kept as they are in the file.

    Raises:
        UserError: If the file is not like that, or images are absent.
    """
    rows = read_split(file)
    folder = _image_folder(file, [path for path, _, _ in every(rows)])
    return as_dataset(file.stem.removeprefix(PREFIX), file, rows, folder)


def read_split(file: Path) -> Rows:
    """The rows of a split file; their paths stay below the folder of images.

    Raises:
        UserError: If the file is not a split file.
    """
    try:
        content = parse_json(read_text(file))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); download the split file again.") from None
    if not intact(content):
        raise UserError(
            f"{file} was changed after it was made; remove it, and it is made again, or remove its 'sha256' "
            "if you changed it yourself."
        )
    if not isinstance(content, dict) or not content.get("train") or not content.get("test"):
        raise UserError(f"{file} is not a split file; it should hold 'train', 'val' and 'test' lists.")
    return {part: _rows(file, part, content.get(part, [])) for part in PARTS}


def every(rows: Rows) -> Iterator[Row]:
    """The rows of all parts."""
    for part in PARTS:
        yield from rows[part]


def as_dataset(name: str, file: Path, rows: Rows, folder: Path) -> Dataset:
    """The dataset of rows whose paths start from ``folder``.

    Args:
        name: Of the dataset.
        file: Where the rows are from, for messages.
        rows: In the published order.
        folder: Of the images; it is not looked into.

    Raises:
        UserError: If labels and class names are not one to one.
    """
    classes = class_names(file, rows)
    items = {part: [Item(folder / path, label) for path, label, _ in rows[part]] for part in PARTS}
    return Dataset(name, classes, items["train"], items["test"], items["val"], split=True)


def class_names(file: Path, rows: Rows) -> list[str]:
    """Class names by label.

    Raises:
        UserError: If a label has two names, labels have gaps, or a class is not trained on though
            others are.
    """
    names: dict[int, str] = {}
    trained = bool(rows["train"])
    for part in PARTS:
        for _, label, name in rows[part]:
            if trained and part != "train" and label not in names:
                raise UserError(
                    f"{file}: the class {name!r} of {part!r} is not in 'train'; add it or remove it."
                )
            if names.setdefault(label, name) != name:
                raise UserError(
                    f"{file}: label {label} is both {names[label]!r} and {name!r}; give it one name."
                )
    if sorted(names) != list(range(len(names))):
        raise UserError(
            f"{file}: the labels are not 0 to {len(names) - 1}; number the classes from 0 without gaps."
        )
    return [names[label] for label in range(len(names))]


def absent_images(folder: Path, rows: Rows) -> list[Path]:
    """Images that are not there; each folder is listed once, which is fast also on network drives."""
    listed: dict[str, set[str]] = {}
    absent = []
    for path in dict.fromkeys(path for path, _, _ in every(rows)):
        parent, name = os.path.split(path)
        if parent not in listed:
            try:
                listed[parent] = {f.name for f in os.scandir(folder / parent) if f.is_file()}
            except (OSError, ValueError):
                listed[parent] = set()
        if name not in listed[parent] and not is_file(folder / path):
            absent.append(folder / path)
    return absent


def _rows(file: Path, part: str, rows: Any) -> list[Row]:
    for i, row in enumerate(rows if isinstance(rows, list) else [rows]):
        if not (isinstance(row, list) and [type(value) for value in row] == [str, int, str]):
            raise UserError(
                f"{file}: entry {i} of {part!r} is not [path, label, class name]; "
                "download the split file again."
            )
        if _leaves(row[0]):
            raise UserError(
                f"{file}: entry {i} of {part!r}, {row[0]!r}, leads out of the folder of images; "
                "download the split file again."
            )
    return [(path, label, name) for path, label, name in rows]


def _leaves(path: str) -> bool:
    """Whether a path leads out of the folder it starts from, on any system."""
    return any(
        kind(path).is_absolute() or kind(path).drive or ".." in kind(path).parts
        for kind in (PurePosixPath, PureWindowsPath)
    ) or path.startswith("\\")


def _image_folder(file: Path, paths: list[str]) -> Path:
    """The folder the paths start from: the split file's own or one next to it."""
    candidates = [file.parent, *subfolders(file.parent)]
    folder = next((c for path in paths for c in candidates if is_file(c / path)), None)
    absent = [path for path in paths if folder is None or not is_file(folder / path)]
    if absent:
        first = absent[0] if folder is None else folder / absent[0]
        raise UserError(
            f"{len(absent)} of the {len(paths)} images of {file} are absent, the first is {first}; "
            f"put the images into a folder in {file.parent}."
        )
    assert folder is not None
    return folder
