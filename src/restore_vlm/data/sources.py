"""A dataset from whatever holds it: class folders, train/test folders, a manifest, a benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from restore_vlm.data.benchmark import read_benchmark, split_file
from restore_vlm.data.catalogue import load_entry, recognise
from restore_vlm.data.dataset import Dataset, Item, same_name, select_classes
from restore_vlm.data.folders import read_folder
from restore_vlm.data.manifest import SUFFIXES, read_manifest
from restore_vlm.data.names import read_names
from restore_vlm.errors import UserError
from restore_vlm.runtime.files import is_file, is_folder

__all__ = ["Dataset", "Item", "load_dataset", "published", "select_classes"]

NAMES = "classes.txt"


def load_dataset(source: Path | str, names: Path | None = None) -> Dataset:
    """Reads a dataset, recognising its layout.

    Args:
        source: A folder with one sub-folder per class; a folder with such folders ``train`` and
            ``val`` and/or ``test`` in it; a manifest (``.csv`` with columns path, class and
            optionally split; ``.jsonl`` or ``.ndjson`` with these keys); a benchmark folder
            with ``split_zhou_<Name>.json`` in it; or the folder of a dataset of the catalogue
            (``DATA/eurosat``), see `restore_vlm.data.catalogue`.
        names: Readable class names, see `restore_vlm.data.names.read_names`. A ``classes.txt`` in
            a folder of class folders is used without asking.

    Raises:
        UserError: If the source is absent, not one of these, or has fewer than two classes.
    """
    source = Path(source).expanduser()
    dataset, default = _read(source)
    names = Path(names).expanduser() if names is not None else default
    if names is not None:
        dataset = replace(dataset, classes=read_names(names, dataset.classes))
    if len(dataset.classes) < 2:
        raise UserError(f"{source} has only one class, {dataset.classes[0]!r}; give at least two.")
    if recognise(source) is None:  # published names may repeat: ImageNet has two missiles
        _check_names(source, dataset.classes)
    return dataset


def published(source: Path | str) -> bool:
    """Whether a source is a published data set, of which the published samples are to be drawn."""
    source = Path(source).expanduser()
    return is_folder(source) and (split_file(source) is not None or recognise(source) is not None)


def _read(source: Path) -> tuple[Dataset, Path | None]:
    """The dataset, and the file of readable names that comes with it."""
    if is_file(source):
        if source.suffix.lower() in SUFFIXES:
            return read_manifest(source), None
        raise UserError(
            f"{source} is a file but no manifest ({', '.join(SUFFIXES)}); "
            "give a manifest or a folder of images."
        )
    if not is_folder(source):
        raise UserError(
            f"There is no {source}; give a folder with one sub-folder per class, "
            f"or a manifest ({', '.join(SUFFIXES)})."
        )
    benchmark = split_file(source)
    if benchmark is not None:
        return read_benchmark(benchmark), None
    entry = recognise(source)
    if entry is not None:
        return load_entry(entry, source), None
    names = source / NAMES
    return read_folder(source), names if is_file(names) else None


def _check_names(source: Path, classes: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        key = same_name(name)
        if key in seen:
            raise UserError(
                f"The classes {seen[key]!r} and {name!r} of {source} have the same name; "
                "rename or merge them (case and underscores do not count)."
            )
        seen[key] = name
