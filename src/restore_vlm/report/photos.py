"""The worst confusions of a run, with the very photos."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from restore_vlm.classifier import Classifier
from restore_vlm.data import BadImage, Item, open_image
from restore_vlm.errors import UserError
from restore_vlm.figures.records import Record

PAIRS, PHOTOS, LOOKED_AT, SIDE = 6, 4, 100, 96


@dataclass
class Confusion:
    """A class that was taken for another.

    Attributes:
        true: What the photos show.
        predicted: What they were taken for.
        count: How often.
        photos: Data URIs of some of them.
    """

    true: str
    predicted: str
    count: int
    photos: list[str] = field(default_factory=list)


def confusions(record: Record, data: str | None) -> tuple[list[Confusion], str]:
    """The most frequent mistakes of a test, and where their photos are from or why there are none."""
    found = [Confusion(c["true"], c["predicted"], c["count"]) for c in record.result["confusions"][:PAIRS]]
    place = data or record.result.get("data")
    if record.folder is None or place is None:
        return found, "Give --data for the photographs."
    if (own := Path(place) / record.dataset).is_dir() and record.protocol != "runs":
        place = str(own)
    try:
        classifier = Classifier.load(record.folder)
        which = record.part if record.part in ("all", "base", "novel") else list(record.result["classes"])
        items, names = classifier.to_test(place, which)
    except UserError as error:
        return found, f"The photographs cannot be shown: {error}"
    for confusion in found:
        if confusion.true in names:
            label = names.index(confusion.true)
            mine = [i for i in items if i.label == label][:LOOKED_AT]
            confusion.photos = _mistaken(classifier, mine, names, confusion.predicted)
    return found, f"Photographs of {place}, asked again."


def _mistaken(classifier: Classifier, items: list[Item], names: list[str], wrong: str) -> list[str]:
    answers = classifier.predict([i.path for i in items], names, top=1) if items else []
    mine = [i.path for i, answer in zip(items, answers, strict=True) if answer.label == wrong]
    return [thumbnail(path) for path in mine[:PHOTOS]]


def thumbnail(path: Path) -> str:
    """A photo as a small WebP in a data URI; empty if it cannot be read any more."""
    try:
        image = open_image(path)
    except (BadImage, OSError):
        return ""
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
