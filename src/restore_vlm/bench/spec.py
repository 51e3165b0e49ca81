"""Content addresses: what decides a number, and nothing else, names the folder it is in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from restore_vlm.backbone.loading import TINY
from restore_vlm.data import Item
from restore_vlm.errors import UserError
from restore_vlm.method import Recipe

FORMAT = 1
"""Raised when the same request would no longer give the same numbers."""
LENGTH = 16


def address(fields: Mapping[str, Any]) -> str:
    """The content address of JSON-able fields; their order does not matter, every value does.

    >>> address({"a": 1, "b": [2]}) == address({"b": [2], "a": 1}) != address({"a": 1, "b": [3]})
    True
    """
    text = json.dumps({"format": FORMAT, "fields": fields}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


@dataclass(frozen=True)
class Spec:
    """Everything the numbers of a run depend on.

    Attributes:
        recipe: The method's parts and hyper-parameters.
        backbone: Its name, or for files on disk the digest of their content.
        precision: Resolved.
        seed: None where nothing is drawn.
        images: Digest of the training images and classes; where nothing is learned, of those of the test.
        validation: Digest of the images that settings are chosen on, where the method does.
    """

    recipe: Mapping[str, Any]
    backbone: str
    precision: str
    seed: int | None
    images: str
    validation: str | None = None

    @property
    def address(self) -> str:
        fields = asdict(self)
        if self.validation is None:
            del fields["validation"]
        return address(fields)


def learns(recipe: Recipe) -> bool:
    """Whether a method looks at training images at all."""
    return recipe.trainable or any(part is not None for _, part in recipe.heads)


def recipe_fields(recipe: Recipe, images: int | None = None) -> dict[str, Any]:
    """What of a recipe decides numbers; parts that are absent leave no trace.

    Args:
        recipe: With all hyper-parameters.
        images: Number of training images; where batches of them are complete, keeping an incomplete one
            decides nothing.
    """
    without = {"name", "source", "fixed_template"}
    fields = recipe.model_dump(mode="json", exclude_none=True, exclude=without)
    if not learns(recipe):
        return {name: field for name, field in fields.items() if name not in ("training", "losses")}
    if images and not images % min(images, recipe.training.batch):
        fields["training"].pop("keep_last", None)
    return fields


def listing(items: Sequence[Item], classes: Sequence[str], anchor: Path) -> str:
    """Digest of a list of images: paths below ``anchor``, sizes in bytes, labels, class names, in order.

    Raises:
        UserError: If an image is absent.
    """
    rows = [[i.path.relative_to(anchor).as_posix(), _size(i.path), i.label] for i in items]
    return address({"classes": list(classes), "items": rows})


def anchor_of(paths: Iterable[Path]) -> Path:
    """The deepest folder that all files are under."""
    return Path(os.path.commonpath([p.parent for p in paths]))


@cache
def backbone_identity(name: str) -> str:
    """A backbone's name, or the digest of its files where they are on this machine."""
    folder = Path(str(files("restore_vlm") / "assets" / "tiny-clip")) if name == TINY else Path(name)
    if not folder.is_dir():
        return name
    digests = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".txt", ".model"):
            with file.open("rb") as stream:
                digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return address(digests)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(
            f"The image {path} cannot be found ({error.strerror}); restore or unlist it."
        ) from None
