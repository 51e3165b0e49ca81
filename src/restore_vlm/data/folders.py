"""Folders of images: one sub-folder per class, with or without train/val/test above them."""

from __future__ import annotations

import os
from pathlib import Path

from restore_vlm.data.dataset import Dataset, Item
from restore_vlm.data.text import listing
from restore_vlm.errors import UserError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_folder(source: Path) -> Dataset:
    """Reads a folder of class folders, or of train/val/test folders of class folders.

    Raises:
        UserError: If that is not what the folder holds.
    """
    parts = _split_folders(source)
    if parts:
        return _read_split(source, parts)
    found = _class_folders(source)
    if len(found) == 1 and next(iter(found)).casefold() == "train":
        raise UserError(
            f"{source} has a train folder but neither val nor test next to it; "
            f"add one, or give {source / next(iter(found))} itself."
        )
    return Dataset(source.resolve().name, list(found), _items(found, list(found)), [], [], split=False)


def subfolders(folder: Path) -> list[Path]:
    """The visible sub-folders, by name.

    Raises:
        UserError: If the folder cannot be read.
    """
    try:
        return sorted(
            (f for f in folder.iterdir() if not f.name.startswith(".") and f.is_dir()), key=lambda f: f.name
        )
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read ({error.strerror}); check its permissions."
        ) from None


def _split_folders(source: Path) -> dict[str, Path]:
    """The train, val and test folders by their part, or nothing where the source has no split."""
    folders = subfolders(source)
    named = [f for f in folders if f.name.casefold() in SPLITS]
    parts: dict[str, Path] = {}
    for folder in named:
        part = SPLITS[folder.name.casefold()]
        if part in parts and "train" in {f.name.casefold() for f in named}:
            raise UserError(f"{parts[part]} and {folder} are both the {part} images; keep one of them.")
        parts[part] = folder
    if "train" in parts:
        return parts if len(parts) > 1 else {}
    if named and len(named) == len(folders):
        raise UserError(
            f"{source} has {listing([f.name for f in named])} but no train folder; "
            "add one, with one folder per class."
        )
    return {}


def _read_split(source: Path, parts: dict[str, Path]) -> Dataset:
    found = {part: _class_folders(folder) for part, folder in parts.items()}
    classes = list(found["train"])
    for part in ("val", "test"):
        for name in found.get(part, {}):
            if name not in found["train"]:
                raise UserError(
                    f"The class {name!r} of {parts[part]} is not in {parts['train']}; "
                    "add training images of it or remove it."
                )
    items = {part: _items(found.get(part, {}), classes) for part in ("train", "val", "test")}
    return Dataset(source.resolve().name, classes, items["train"], items["test"], items["val"], split=True)


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """The images of each class folder, classes by name."""
    found = {f.name: _images_in(f) for f in subfolders(folder)}
    if not any(found.values()):
        if any(is_image(f.name) and f.is_file() for f in folder.iterdir()):
            raise UserError(f"The images in {folder} lie loose; sort them into one folder per class.")
        raise UserError(
            f"There are no images in {folder}; it should hold one folder per class with images "
            f"({', '.join(sorted(e[1:] for e in EXTENSIONS))}) in it."
        )
    empty = [str(folder / name) for name, images in found.items() if not images]
    if empty:
        raise UserError(f"No images in the class folder {listing(empty)}; remove it or add images.")
    return found


def _images_in(folder: Path) -> list[Path]:
    """All images under a folder, however deep, sorted; hidden files and folders left out."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [Path(root, f) for f in files if is_image(f)]
    return sorted(found, key=lambda path: path.as_posix())


def is_image(name: str) -> bool:
    """Whether a file's name is that of a visible image."""
    return not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS


def _items(found: dict[str, list[Path]], classes: list[str]) -> list[Item]:
    return [Item(path, label) for label, name in enumerate(classes) for path in found.get(name, [])]
