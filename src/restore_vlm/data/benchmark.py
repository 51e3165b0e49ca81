"""The layout of the few-shot benchmarks: ``split_zhou_<Name>.json`` and a folder of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from restore_vlm.data.dataset import Dataset, Item
from restore_vlm.data.folders import subfolders
from restore_vlm.data.text import is_file, listing, read_text
from restore_vlm.errors import UserError

PREFIX = "split_zhou_"
PARTS = ("train", "val", "test")


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
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({error}); download the split file again.") from None
    if not isinstance(content, dict) or not content.get("train") or not content.get("test"):
        raise UserError(f"{file} is not a split file; it should hold 'train', 'val' and 'test' lists.")
    rows = {part: _rows(file, part, content.get(part, [])) for part in PARTS}
    classes = _classes(file, rows)
    folder = _image_folder(file, [path for part in PARTS for path, _, _ in rows[part]])
    items = {part: [Item(folder / path, label) for path, label, _ in rows[part]] for part in PARTS}
    name = file.stem.removeprefix(PREFIX)
    return Dataset(name, classes, items["train"], items["test"], items["val"], split=True)


def _rows(file: Path, part: str, rows: Any) -> list[tuple[str, int, str]]:
    for i, row in enumerate(rows if isinstance(rows, list) else [rows]):
        if not (isinstance(row, list) and [type(value) for value in row] == [str, int, str]):
            raise UserError(
                f"{file}: entry {i} of {part!r} is not [path, label, class name]; "
                "download the split file again."
            )
    return [(path, label, name) for path, label, name in rows]


def _classes(file: Path, rows: dict[str, list[tuple[str, int, str]]]) -> list[str]:
    """Class names by label."""
    names: dict[int, str] = {}
    for part in PARTS:
        for _, label, name in rows[part]:
            if part != "train" and label not in names:
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
