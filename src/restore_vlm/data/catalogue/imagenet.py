"""ImageNet and its variants: folders of images, class names by WordNet id."""

from __future__ import annotations

import os
from pathlib import Path

from restore_vlm.data.benchmark import Row, Rows
from restore_vlm.data.catalogue.entries import Entry
from restore_vlm.data.folders import is_image, subfolders
from restore_vlm.data.text import listing
from restore_vlm.errors import UserError, unknown
from restore_vlm.runtime.files import bundled, is_file, read_text

NAMES = "classnames.txt"


def imagenet(entry: Entry, folder: Path) -> Rows:
    """Class folders below ``images/train`` and ``images/val``; the latter is the test part.

    The published code uses the test images as validation images too; here there are none, so that
    nothing is chosen on what is measured.
    """
    names = class_names_by_folder(folder)
    base = folder / entry.images
    rows = {part: _by_wnid(base, names, f"{part}/") for part in ("train", "val")}
    train, val = ({path.split("/")[1] for path, _, _ in rows[part]} for part in rows)
    if train != val:
        raise UserError(
            f"The class folders of {base / 'train'} and {base / 'val'} differ; complete the dataset."
        )
    return {"train": rows["train"], "val": [], "test": rows["val"]}


def wnid_folders(entry: Entry, folder: Path) -> Rows:
    """Class folders by WordNet id, for test (Sketch; A and R with 200 classes, labelled from 0)."""
    return {"train": [], "val": [], "test": _by_wnid(folder / entry.images, class_names_by_folder(folder))}


def imagenetv2(entry: Entry, folder: Path) -> Rows:
    """Class folders 0, 1, ... in the order of ``classnames.txt``, for test."""
    base = folder / entry.images
    names = list(class_names_by_folder(folder).values())
    test: list[Row] = []
    for label, name in enumerate(names):
        if not (base / str(label)).is_dir():
            raise UserError(
                f"{base} has no folder {label} ({name}); it should hold 0 to {len(names) - 1}: "
                "complete the dataset."
            )
        test += [(f"{label}/{image}", label, name) for image in image_names(base / str(label))]
    return {"train": [], "val": [], "test": test}


def class_names_by_folder(folder: Path) -> dict[str, str]:
    """Class names by WordNet id, in the order of the labels.

    From ``classnames.txt`` in the dataset's folder, else in the ImageNet folder next to it, else
    the names that open_clip ships, which are OpenAI's.

    Raises:
        UserError: If the file is malformed or not in the order of the ids.
    """
    for file in (folder / NAMES, folder.parent / "imagenet" / NAMES):
        if is_file(file):
            return _read_names(file)
    from open_clip import IMAGENET_CLASSNAMES

    return dict(zip(wnids(), IMAGENET_CLASSNAMES, strict=True))


def wnids() -> list[str]:
    """ImageNet's 1,000 WordNet ids in the order of the labels."""
    return bundled(__package__, "imagenet_wnids.txt").split()


def image_names(folder: Path) -> list[str]:
    """The visible images right in a folder, by name.

    Raises:
        UserError: If the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(f.name for f in found if is_image(f.name) and f.is_file())
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read ({error.strerror}); check it.") from None


def _by_wnid(base: Path, names: dict[str, str], prefix: str = "") -> list[Row]:
    """Rows of the class folders in ``base / prefix``, labelled by their order."""
    rows: list[Row] = []
    found = [f.name for f in subfolders(base / prefix)]
    for label, wnid in enumerate(found):
        if wnid not in names:
            raise unknown(f"class folder of {base / prefix}", wnid, names)
        images = image_names(base / prefix / wnid)
        if not images:
            raise UserError(f"No images in {base / prefix / wnid}; complete the dataset.")
        rows += [(f"{prefix}{wnid}/{image}", label, names[wnid]) for image in images]
    if not rows:
        raise UserError(
            f"No class folders ({listing(list(names)[:2])}, ...) in {base / prefix}; "
            "sort the images into one folder per class."
        )
    return rows


def _read_names(file: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        wnid, _, name = line.strip().partition(" ")
        if not name or wnid in names:
            problem = "names a folder twice" if name else "is not a folder and its class name"
            raise UserError(f"{file}, line {number} {problem}; download the file again.")
        names[wnid] = name
    if not names or list(names) != sorted(names):
        raise UserError(f"{file} is not sorted by folder, as labels are; download the file again.")
    return names
