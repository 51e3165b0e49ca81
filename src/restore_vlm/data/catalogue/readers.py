"""Labels as each publisher ships them, to rows of train, val and test in the published order."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from restore_vlm.data.benchmark import Row, Rows
from restore_vlm.data.catalogue.entries import Entry
from restore_vlm.data.catalogue.imagenet import image_names, imagenet, imagenetv2, wnid_folders
from restore_vlm.data.catalogue.splits import three_way, two_way
from restore_vlm.data.folders import subfolders
from restore_vlm.errors import UserError
from restore_vlm.runtime.files import parse_json, read_text

T = TypeVar("T")

Reader = Callable[[Entry, Path], Rows]
"""From a dataset's entry and folder to its rows."""


def class_folders(entry: Entry, folder: Path) -> Rows:
    """One folder per class, split in three (Caltech101, Food101, DTD, EuroSAT)."""
    base = folder / entry.images
    found = [f.name for f in subfolders(base) if f.name not in entry.ignore]
    return three_way(
        (label, entry.rename.get(name, name), [f"{name}/{image}" for image in image_names(base / name)])
        for label, name in enumerate(found)
    )


def oxford_flowers(entry: Entry, folder: Path) -> Rows:
    """``imagelabels.mat`` with labels from 1, ``cat_to_name.json`` with their names; split in three."""
    names_file = folder / "cat_to_name.json"
    try:
        names = {int(label): str(name) for label, name in parse_json(read_text(names_file)).items()}
    except (ValueError, AttributeError):
        raise UserError(f"{names_file} does not map labels to names; download it again.") from None
    labels = _mat(folder / "imagelabels.mat", lambda content: [int(v) for v in content["labels"].ravel()])
    groups: dict[int, list[str]] = {}
    for number, label in enumerate(labels, start=1):
        if label not in names:
            raise UserError(f"{names_file} has no name for the label {label}; download it again.")
        groups.setdefault(label, []).append(f"image_{number:05d}.jpg")
    return three_way((label - 1, names[label], paths) for label, paths in groups.items())


def oxford_pets(entry: Entry, folder: Path) -> Rows:
    """Lists of ``name label species breed``, labels from 1; a fifth of the training list is for val."""

    def read(name: str) -> list[Row]:
        rows = []
        for where, line in _lines(folder / "annotations" / name):
            fields = line.split()
            if len(fields) != 4 or not fields[1].isdigit():
                raise UserError(f"{where} is not a name and three numbers; download the file again.")
            rows.append((f"{fields[0]}.jpg", int(fields[1]) - 1, pet_name(f"{fields[0]}.jpg")))
        return rows

    return two_way(read("trainval.txt"), read("test.txt"))


def stanford_cars(entry: Entry, folder: Path) -> Rows:
    """MATLAB lists of file and class, classes from 1; the year goes in front of the name."""

    def names(content: Any) -> list[str]:
        words = [str(name).split(" ") for name in content["class_names"]]
        return [" ".join([*name[-1:], *name[:-1]]) for name in words]

    classes = _mat(folder / "devkit" / "cars_meta.mat", names)

    def read(images: str, file: Path) -> list[Row]:
        pairs = _mat(
            file, lambda content: [(str(a["fname"]), int(a["class"]) - 1) for a in content["annotations"]]
        )
        if any(not 0 <= label < len(classes) for _, label in pairs):
            raise UserError(f"{file} has classes that cars_meta.mat does not name; download both again.")
        return [(f"{images}/{name}", label, classes[label]) for name, label in pairs]

    train = read("cars_train", folder / "devkit" / "cars_train_annos.mat")
    return two_way(train, read("cars_test", folder / "cars_test_annos_withlabels.mat"))


def sun397(entry: Entry, folder: Path) -> Rows:
    """``ClassName.txt`` in the order of the labels, lists of ``/a/abbey/sun_x.jpg``."""
    labels = {line[1:]: i for i, (_, line) in enumerate(_lines(folder / "ClassName.txt"))}

    def read(name: str) -> list[Row]:
        rows = []
        for where, line in _lines(folder / name):
            scene = line[1:].rpartition("/")[0]
            if scene not in labels:
                raise UserError(f"{where}: {scene!r} is not in ClassName.txt; download both again.")
            rows.append((line[1:], labels[scene], scene_name(line[1:])))
        return rows

    return two_way(read("Training_01.txt"), read("Testing_01.txt"))


def ucf101(entry: Entry, folder: Path) -> Rows:
    """``classInd.txt`` (label from 1, action), lists of videos; images are their middle frames."""
    lists = folder / "ucfTrainTestlist"
    labels: dict[str, int] = {}
    for where, line in _lines(lists / "classInd.txt"):
        number, _, action = line.partition(" ")
        if not number.isdigit() or not action:
            raise UserError(f"{where} is not a number and an action; download the file again.")
        labels[action] = int(number) - 1

    def read(name: str) -> list[Row]:
        rows = []
        for where, line in _lines(lists / name):
            action, _, video = line.split()[0].partition("/")
            if action not in labels:
                raise UserError(f"{where}: {action!r} is not in classInd.txt; download both again.")
            words = "_".join(re.findall("[A-Z][^A-Z]*", action))
            rows.append((f"{words}/{video.replace('.avi', '.jpg')}", labels[action], words))
        return rows

    return two_way(read("trainlist01.txt"), read("testlist01.txt"))


def fgvc_aircraft(entry: Entry, folder: Path) -> Rows:
    """``variants.txt`` in the order of the labels, lists of ``number variant`` for each part."""
    labels = {line: i for i, (_, line) in enumerate(_lines(folder / "variants.txt"))}

    def read(part: str) -> list[Row]:
        rows = []
        for where, line in _lines(folder / f"images_variant_{part}.txt"):
            number, _, variant = line.partition(" ")
            if variant not in labels:
                raise UserError(f"{where}: {variant!r} is not in variants.txt; download both again.")
            rows.append((f"{number}.jpg", labels[variant], variant))
        return rows

    return {part: read(part) for part in ("train", "val", "test")}


def pet_name(path: str) -> str:
    """``Great_Pyrenees_12.jpg`` to ``great_pyrenees``."""
    return path.rpartition("_")[0].lower()


def scene_name(path: str) -> str:
    """``a/apse/indoor/sun_x.jpg`` to ``indoor apse``."""
    return " ".join(path.split("/")[-2:0:-1])


READERS: dict[str, Reader] = {
    reader.__name__: reader
    for reader in (
        class_folders, oxford_flowers, oxford_pets, stanford_cars, sun397, ucf101, fgvc_aircraft,
        imagenet, imagenetv2, wnid_folders,
    )
}  # fmt: skip


def name_from_path(entry: Entry, path: str) -> str | None:
    """The class name an image's path says, or None where it says nothing."""
    if entry.reader == "class_folders":
        name = path.split("/")[0]
        return entry.rename.get(name, name)
    by_reader = {"oxford_pets": pet_name, "sun397": scene_name, "ucf101": lambda p: p.split("/")[0]}
    return by_reader[entry.reader](path) if entry.reader in by_reader else None


def _lines(file: Path) -> list[tuple[str, str]]:
    """Where each line is, and the line; empty ones left out."""
    lines = enumerate(read_text(file).splitlines(), start=1)
    return [(f"{file}, line {number}", line.strip()) for number, line in lines if line.strip()]


def _mat(file: Path, take: Callable[[Any], T]) -> T:
    """What ``take`` finds in a MATLAB file."""
    from scipy.io import loadmat  # type: ignore[import-untyped]

    if not file.is_file():
        raise UserError(f"There is no {file}; complete the dataset.")
    try:
        content = loadmat(file, simplify_cells=True)
        for key in ("annotations", "class_names"):
            if isinstance(content.get(key), dict | str):  # a list of one
                content[key] = [content[key]]
        return take(content)
    except Exception as error:  # scipy raises nearly anything on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} cannot be read ({reason}); download it again.") from None
