"""What lies under a root: which datasets are there, and one of them loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from restore_vlm.data.benchmark import Rows, absent_images, as_dataset, read_split
from restore_vlm.data.catalogue.entries import DATASETS, Entry, check_root, dataset_entry
from restore_vlm.data.catalogue.readers import READERS
from restore_vlm.data.catalogue.splits import write_split
from restore_vlm.data.dataset import Dataset
from restore_vlm.data.text import listing
from restore_vlm.errors import UserError
from restore_vlm.runtime.files import is_file, is_folder


@dataclass(frozen=True)
class Found:
    """What is found of a dataset, without looking into its images.

    Attributes:
        state: ``ready``, ``incomplete`` or ``absent``.
        detail: What is missing, or where the split is from.
    """

    state: str
    detail: str


def find(root: Path | str) -> dict[str, Found]:
    """What is found of each dataset of the catalogue under a root, by name.

    Raises:
        UserError: If there is no such folder.
    """
    root = check_root(Path(root))
    return {name: found(entry, root / entry.folder) for name, entry in DATASETS.items()}


def found(entry: Entry, folder: Path) -> Found:
    """What is found of one dataset in its folder."""
    if not is_folder(folder):
        return Found("absent", "")
    missing = missing_files(entry, folder)
    if missing:
        return Found("incomplete", f"no {listing(missing)}")
    if not entry.split:
        return Found("ready", "")
    if not is_file(folder / entry.split):
        return Found("ready", f"no {entry.split}; one is made at first use")
    return Found("ready", f"split {'made here' if made_here(folder / entry.split) else 'file'}")


def missing_files(entry: Entry, folder: Path) -> list[str]:
    """Folders of images, or files of labels that are needed, that are not there."""
    missing = [part for part in entry.parts if not is_folder(folder / part)]
    if not (entry.split and is_file(folder / entry.split)):
        missing += [name for name in entry.labels if not is_file(folder / name)]
    return missing


def made_here(file: Path) -> bool:
    """Whether a split file is not the published one but made by :func:`load_catalogued`."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 200))
            return b'"note": "made by restore-vlm' in stream.read()
    except OSError:
        return False


def load_catalogued(name: str, root: Path | str) -> Dataset:
    """Loads a dataset of the catalogue from the benchmark layout.

    Where the split file is absent it is made by the published procedure and kept beside the images.

    Args:
        name: Name, title or folder of the dataset: ``dtd``, ``OxfordPets``, ``caltech-101``.
        root: The folder that holds the datasets' folders.

    Returns:
        Its classes and images in the published order. Datasets for test alone have no training
        images; ImageNet has no validation images.

    Raises:
        UserError: If the name is unknown, or the dataset is absent, incomplete or damaged.

    Example:
        >>> from restore_vlm.data.catalogue import load_catalogued
        >>> load_catalogued("eurosat", "DATA").classes[0]  # doctest: +SKIP
        'Annual Crop Land'
    """
    entry = dataset_entry(name)
    root = check_root(Path(root))
    return load_entry(entry, root / entry.folder)


def load_entry(entry: Entry, folder: Path) -> Dataset:
    """Loads a dataset of the catalogue from its own folder, as :func:`load_catalogued`."""
    state = found(entry, folder)
    if state.state != "ready":
        problem = f"is {state.detail} in {folder}" if state.detail else f"is no folder {folder}"
        raise UserError(f"{entry.title}: there {problem}; {entry.advice(folder.parent)}.")
    rows = read_rows(entry, folder, keep=True)
    base = folder / entry.images
    absent = absent_images(base, rows) if entry.split or entry.labels else []
    if absent:
        total = sum(len(part) for part in rows.values())
        raise UserError(
            f"{entry.title}: {len(absent)} of {total} images are absent, the first is {absent[0]}; "
            f"complete {base}, see: restore-vlm datasets check {folder.parent} --dataset {entry.name}."
        )
    return as_dataset(entry.name, source_file(entry, folder), rows, base)


def source_file(entry: Entry, folder: Path) -> Path:
    """Where labels come from, for messages."""
    return folder / (entry.split or (entry.labels or [entry.images])[0])


def read_rows(entry: Entry, folder: Path, keep: bool) -> Rows:
    """The rows of a dataset: from its split file, else from the publisher's own files.

    Args:
        entry: The dataset.
        folder: Its folder.
        keep: Whether to write a split file that was absent.

    Raises:
        UserError: If files are absent or damaged.
    """
    file = folder / entry.split
    if entry.split and is_file(file):
        return read_split(file)
    rows = READERS[entry.reader](entry, folder)
    if entry.split and keep:
        write_split(file, rows)
    return rows
