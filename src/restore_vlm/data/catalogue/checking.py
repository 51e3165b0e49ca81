"""Looking at a whole dataset: counts, names, files; every defect in one sentence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from restore_vlm.data.benchmark import PARTS, Rows, absent_images, class_names, every
from restore_vlm.data.catalogue.entries import Entry, check_root, dataset_entry
from restore_vlm.data.catalogue.loading import made_here, missing_files, read_rows, source_file
from restore_vlm.data.catalogue.readers import name_from_path
from restore_vlm.data.dataset import same_name
from restore_vlm.data.folders import is_image
from restore_vlm.data.images import inspect
from restore_vlm.data.text import listing
from restore_vlm.errors import UserError
from restore_vlm.runtime.files import is_file, is_folder

MOST = 5
"""Files named in one sentence."""


@dataclass
class Checked:
    """What a check found.

    Attributes:
        entry: The dataset.
        defects: Sentences that say what is wrong and what to do; none where all is well.
        notes: What is worth knowing and no defect.
        images: How many images were looked at.
    """

    entry: Entry
    defects: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: int = 0


def check_dataset(
    name: str,
    root: Path | str,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Compares a dataset with what was published, and looks at every image.

    Nothing is written.

    Args:
        name: Name, title or folder of the dataset.
        root: The folder that holds the datasets' folders.
        decode: Whether to decode every image; without, files are counted but not opened.
        progress: Called with the number of images decoded so far and of all.

    Raises:
        UserError: If the name is unknown or there is no root.
    """
    entry = dataset_entry(name)
    root = check_root(Path(root))
    folder = root / entry.folder
    checked = Checked(entry)
    if not is_folder(folder):
        checked.defects.append(f"there is no folder {folder}; {entry.advice(root)}.")
        return checked
    missing = missing_files(entry, folder)
    if missing:
        checked.defects.append(f"there is no {listing(missing)} in {folder}; {entry.advice(root)}.")
        return checked
    _check_split(checked, folder)
    checked.defects += _empty_folders(entry, folder)
    try:
        rows = read_rows(entry, folder, keep=False)
    except UserError as error:
        checked.defects.append(str(error))
        return checked
    checked.defects += _rows_defects(entry, folder, rows)
    absent = absent_images(folder / entry.images, rows)
    if absent:
        checked.defects.append(f"{_some('image', absent, folder)} missing; {entry.repair(root)}.")
    _check_images(checked, folder, rows, set(absent), decode, progress)
    return checked


def _check_split(checked: Checked, folder: Path) -> None:
    entry = checked.entry
    if not entry.split:
        return
    if not is_file(folder / entry.split):
        step = entry.split_step(folder.parent)
        checked.defects.append(
            f"there is no {entry.split}, and one made at first use has other images in its parts; "
            f"{step[:1].lower()}{step[1:]}"
        )
    elif made_here(folder / entry.split):
        checked.notes.append(
            f"{entry.split} was made here by the published procedure; its parts are not those of "
            "published results."
        )


def _rows_defects(entry: Entry, folder: Path, rows: Rows) -> Iterator[str]:
    """What is wrong with labels, class names, parts and counts."""
    file = source_file(entry, folder)
    try:
        class_names(file, rows)
    except UserError as error:
        yield str(error)
    named = ((path, name, name_from_path(entry, path)) for path, _, name in every(rows))
    wrong = {(name, said) for _, name, said in named if said and same_name(said) != same_name(name)}
    if wrong:
        pairs = listing([f"{name!r} for {said!r}" for name, said in sorted(wrong)], MOST)
        yield f"{file} has other class names than its paths say: {pairs}; put the published file there."
    times = Counter(path for path, _, _ in every(rows))
    twice = [Path(path) for path, count in times.items() if count > 1]
    if twice:
        yield f"{file} lists {_some('image', twice, folder)} twice; put the published file there."
    yield from _count_defects(entry, file, rows)


def _count_defects(entry: Entry, file: Path, rows: Rows) -> Iterator[str]:
    published = entry.counts
    classes = len({label for _, label, _ in every(rows)})
    if classes != published.classes:
        yield f"{classes} classes rather than the published {published.classes}; complete {file}."
    for part in PARTS:
        expected = getattr(published, part)
        if len(rows[part]) != expected:
            yield (
                f"{len(rows[part])} {part} images rather than the published {expected}; "
                f"{'put the published split there' if entry.split else 'complete the dataset'}."
            )


def _empty_folders(entry: Entry, folder: Path) -> list[str]:
    """Folders without a file or folder in them that could be a class."""
    empty = []
    for part in entry.parts:
        for place, folders, files in os.walk(folder / part, followlinks=True):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in entry.ignore)
            if not folders and not any(is_image(f) for f in files):
                empty.append(Path(place))
    advice = entry.repair(folder.parent)
    return [f"{_some('class folder', empty, folder)} without images; {advice}."] if empty else []


def _check_images(
    checked: Checked,
    folder: Path,
    rows: Rows,
    absent: set[Path],
    decode: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    base = folder / checked.entry.images
    paths = [path for path in dict.fromkeys(base / path for path, _, _ in every(rows)) if path not in absent]
    checked.images = len(paths)
    if not decode:
        checked.notes.append("the images were counted, not opened.")
        return
    total = len(paths)
    _, bad = inspect(paths, (lambda done: progress(done, total)) if progress else None)
    by_reason: dict[str, list[Path]] = {}
    for path, reason in bad.items():
        by_reason.setdefault(reason, []).append(path)
    for reason, files in by_reason.items():
        advice = checked.entry.repair(folder.parent)
        checked.defects.append(f"{_some('image', files, folder)} unusable ({reason}); {advice}.")


def _some(what: str, paths: list[Path], folder: Path) -> str:
    """``2 images (a.jpg, b.jpg)``."""
    names = [str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in paths]
    return f"{len(paths)} {what}{'' if len(paths) == 1 else 's'} ({listing(names, MOST)})"
