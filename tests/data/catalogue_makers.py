"""Miniature copies of the benchmark's 15 layouts, as their publishers ship them, without split files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from data.data_makers import picture
from restore_vlm.data.benchmark import Rows
from restore_vlm.data.catalogue import DATASETS, Counts

WNIDS = {"n01440764": "tench", "n01443537": "goldfish", "n03773504": "missile", "n04008634": "missile"}


def jpeg(path: Path) -> None:
    picture(path, abs(hash(path.name)) % 60000, (9, 7))


def images(base: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        for i in range(count):
            jpeg(base / name / f"image_{i:04d}.jpg")


def lines(path: Path, *text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in text))


def caltech101(folder: Path) -> None:
    base = folder / "101_ObjectCategories"
    images(base, {"accordion": 5, "Faces": 7, "airplanes": 10, "Leopards": 4, "Motorbikes": 6})
    images(base, {"BACKGROUND_Google": 2, "Faces_easy": 3})
    (base / "airplanes" / ".DS_Store").write_bytes(b"x")
    (base / ".hidden").mkdir()


def by_folder(images_folder: str, counts: dict[str, int]) -> Callable[[Path], None]:
    return lambda folder: images(folder / images_folder, counts)


def oxford_pets(folder: Path) -> None:
    train, test = [], []
    for label, name in [(1, "Abyssinian"), (2, "american_bulldog"), (25, "Great_Pyrenees")]:
        for i in range(8):
            jpeg(folder / "images" / f"{name}_{i}.jpg")
            line = f"{name}_{i} {min(label, 3)} 1 1"
            (train if i < 5 else test).append(line)
    lines(folder / "annotations" / "trainval.txt", *train)
    lines(folder / "annotations" / "test.txt", *test)


def stanford_cars(folder: Path) -> None:
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi TT RS Coupe 2012"]
    lists: dict[str, list[dict[str, object]]] = {"cars_train": [], "cars_test": []}
    for number, (part, found) in enumerate(
        [(part, label) for part in lists for label in (2, 1, 3, 1, 2, 3, 1, 2, 3)], start=1
    ):
        jpeg(folder / part / f"{number:05d}.jpg")
        lists[part].append({"bbox_x1": 3, "class": found, "fname": f"{number:05d}.jpg"})
    (folder / "devkit").mkdir()

    def annotations(items: list[dict[str, object]]) -> np.ndarray:
        kinds = [(key, object) for key in items[0]]
        return np.array([tuple(item.values()) for item in items], dtype=kinds).reshape(1, -1)

    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": annotations(lists["cars_train"])})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": annotations(lists["cars_test"])})


def oxford_flowers(folder: Path) -> None:
    labels = [3] * 5 + [1] * 6 + [2] * 4 + [3] * 2
    for number in range(1, len(labels) + 1):
        jpeg(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    names = {"2": "hard-leaved pocket orchid", "1": "pink primrose", "3": "canterbury bells"}
    (folder / "cat_to_name.json").write_text(json.dumps(names))


def fgvc_aircraft(folder: Path) -> None:
    lines(folder / "variants.txt", "707-320", "727-200", "An-12 Cub")
    number = 1000000
    for part in ("train", "val", "test"):
        rows = []
        for variant in ("727-200", "707-320", "An-12 Cub", "707-320"):
            number += 17
            jpeg(folder / "images" / f"{number}.jpg")
            rows.append(f"{number} {variant}")
        lines(folder / f"images_variant_{part}.txt", *rows)


def sun397(folder: Path) -> None:
    scenes = ["a/abbey", "a/apartment_building/outdoor", "a/apse/indoor"]
    lines(folder / "ClassName.txt", *(f"/{scene}" for scene in scenes))
    lists: dict[str, list[str]] = {"Training_01.txt": [], "Testing_01.txt": []}
    for scene in reversed(scenes):
        for i in range(7):
            name = f"{scene}/sun_{i:05d}.jpg"
            jpeg(folder / "SUN397" / name)
            lists["Training_01.txt" if i < 4 else "Testing_01.txt"].append(f"/{name}")
    for name, rows in lists.items():
        lines(folder / name, *rows)


def ucf101(folder: Path) -> None:
    actions = {"ApplyEyeMakeup": "Apply_Eye_Makeup", "HandstandPushups": "Handstand_Pushups", "YoYo": "Yo_Yo"}
    lists = folder / "ucfTrainTestlist"
    lines(lists / "classInd.txt", *(f"{i} {action}" for i, action in enumerate(actions, start=1)))
    train, test = [], []
    for label, (action, words) in enumerate(actions.items(), start=1):
        for i in range(8):
            video = f"v_{action}_g{i:02d}_c01"
            jpeg(folder / "UCF-101-midframes" / words / f"{video}.jpg")
            (train if i > 2 else test).append(f"{action}/{video}.avi" + (f" {label}" if i > 2 else ""))
    lines(lists / "trainlist01.txt", *train)
    lines(lists / "testlist01.txt", *test)


def names_file(folder: Path) -> None:
    lines(folder / "classnames.txt", *(f"{wnid} {name}" for wnid, name in WNIDS.items()))


def imagenet(folder: Path) -> None:
    names_file(folder)
    for part, count in (("train", 3), ("val", 2)):
        for wnid in WNIDS:
            for i in range(count):
                jpeg(folder / "images" / part / wnid / f"{wnid}_{part}_{i}.JPEG")


def imagenetv2(folder: Path) -> None:
    names_file(folder)
    images(folder / "imagenetv2-matched-frequency-format-val", {str(label): 2 for label in range(len(WNIDS))})


def wnid_folders(images_folder: str, wnids: list[str]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        names_file(folder)
        images(folder / images_folder, dict.fromkeys(wnids, 3))
        (folder / images_folder / "README.txt").write_text("read me")

    return make


MAKERS: dict[str, Callable[[Path], None]] = {
    "imagenet": imagenet,
    "caltech101": caltech101,
    "oxford_pets": oxford_pets,
    "stanford_cars": stanford_cars,
    "oxford_flowers": oxford_flowers,
    "food101": by_folder("images", {"apple_pie": 6, "baklava": 5}),
    "fgvc_aircraft": fgvc_aircraft,
    "sun397": sun397,
    "dtd": by_folder("images", {"banded": 5, "blotchy": 6, "zigzagged": 7}),
    "eurosat": by_folder("2750", {"SeaLake": 5, "AnnualCrop": 6, "Highway": 8}),
    "ucf101": ucf101,
    "imagenetv2": imagenetv2,
    "imagenet_sketch": wnid_folders("images", list(WNIDS)),
    "imagenet_a": wnid_folders("imagenet-a", ["n03773504", "n01443537"]),
    "imagenet_r": wnid_folders("imagenet-r", ["n04008634", "n01440764", "n01443537"]),
}


def make(name: str, root: Path) -> Path:
    """Writes the miniature of a dataset below a root; returns the dataset's folder."""
    folder = root / DATASETS[name].folder
    folder.mkdir(parents=True)
    MAKERS[name](folder)
    return folder


def publish_counts(monkeypatch: pytest.MonkeyPatch, name: str, rows: Rows) -> None:
    """Makes the counts of a miniature the published ones."""
    classes = {label for part in rows.values() for _, label, _ in part}
    counts = Counts(len(classes), *(len(rows[part]) for part in ("train", "val", "test")))
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], counts=counts))
