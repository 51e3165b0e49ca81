"""The published procedures that make a split where the split file is absent."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path

from restore_vlm.data.benchmark import Row, Rows
from restore_vlm.errors import UserError
from restore_vlm.runtime.files import SHA256, sealed, write_atomic

SEED = 1
"""Of the shuffles; the publication's code uses that of the run, of which the first is 1."""

TRAIN, VAL = 0.5, 0.2
NOTE = "made by restore-vlm with the published procedure, seed {}, from files in order of name"


def three_way(groups: Iterable[tuple[int, str, list[str]]], seed: int = SEED) -> Rows:
    """Half of each class for training, a fifth for validation, the rest for test.

    As ``read_and_split_data`` of CoOp (arXiv 2109.01134): classes in the order given, each class
    shuffled, sizes rounded half to even. CoOp shuffles the files in the order its file system
    lists them; here they are in order of name, so that a split depends on the files alone.

    Args:
        groups: (label, class name, image paths) of each class.
        seed: Of the shuffles.

    Raises:
        UserError: If a class has too few images for three parts.
    """
    rng = random.Random(seed)
    rows: Rows = {"train": [], "val": [], "test": []}
    for label, name, paths in groups:
        shuffled = list(paths)
        rng.shuffle(shuffled)
        train, val = round(len(paths) * TRAIN), round(len(paths) * VAL)
        parts = shuffled[:train], shuffled[train : train + val], shuffled[train + val :]
        if not all(parts):
            raise UserError(
                f"The class {name!r} has {len(paths)} images, too few to split into "
                "train, val and test; complete the dataset."
            )
        for part, chosen in zip(rows, parts, strict=True):
            rows[part] += [(path, label, name) for path in chosen]
    return rows


def two_way(trainval: list[Row], test: list[Row], seed: int = SEED) -> Rows:
    """A fifth of each class's training images for validation; the test images are the publisher's.

    As ``split_trainval`` of CoOp: classes in order of first appearance, each class shuffled, its
    first images for validation, the number rounded half to even.

    Args:
        trainval: The publisher's training images.
        test: The publisher's test images.
        seed: Of the shuffles.

    Raises:
        UserError: If a class has too few training images.
    """
    rng = random.Random(seed)
    by_class: dict[int, list[Row]] = {}
    for row in trainval:
        by_class.setdefault(row[1], []).append(row)
    rows: Rows = {"train": [], "val": [], "test": list(test)}
    for group in by_class.values():
        rng.shuffle(group)
        count = round(len(group) * VAL)
        if count == 0:
            raise UserError(
                f"The class {group[0][2]!r} has {len(group)} training images, too few to split into "
                "train and val; complete the dataset."
            )
        rows["val"] += group[:count]
        rows["train"] += group[count:]
    return rows


def write_split(file: Path, rows: Rows, seed: int = SEED) -> None:
    """Writes a split file completely or not at all, in the published form and with a note.

    A folder that may only be read is no error: the same split is made again next time.

    Raises:
        UserError: If the disk is full or failing.
    """
    content = {**rows, "note": NOTE.format(seed)}
    ordered = {
        **rows,
        SHA256: sealed(content)[SHA256],
        "note": content["note"],
    }  # the note is looked for last
    text = json.dumps(ordered, indent=4, separators=(",", ": "))
    try:
        write_atomic(file, text)
    except UserError:
        if os.access(file.parent, os.W_OK):
            raise
