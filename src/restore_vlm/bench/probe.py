"""Feature shift of every run of a grid, on a fixed few of its test images."""

from __future__ import annotations

import torch

from restore_vlm.bench.datasets import Images
from restore_vlm.data import Images as Loaded
from restore_vlm.data import test_transform
from restore_vlm.method import PromptedModel
from restore_vlm.shift import Measurement, measure_model

IMAGES, CLASSES = 64, 50
"""Looked at, at most."""


def probe(model: PromptedModel, images: Images) -> Measurement:
    """Measures up to 64 images of up to 50 classes, both spread evenly over the list."""
    wanted = {label: place for place, label in enumerate(_spread(len(images.classes), CLASSES))}
    mine = [item for item in images.items if item.label in wanted]
    items = [mine[i] for i in _spread(len(mine), IMAGES)]
    loaded = Loaded(items, test_transform(model.backbone.preprocess))
    batch = torch.stack([loaded[i][0] for i in range(len(items))])
    names = [images.classes[label] for label in wanted]
    return measure_model(model.eval(), [batch], names, [wanted[i.label] for i in items])


def _spread(total: int, most: int) -> list[int]:
    """At most ``most`` of the places 0..total-1, evenly."""
    return [i * total // min(total, most) for i in range(min(total, most))]
