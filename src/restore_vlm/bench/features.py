"""Frozen image features, computed once per list of images and backbone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from restore_vlm.bench.datasets import Subset
from restore_vlm.bench.spec import address
from restore_vlm.data import Images, loader, test_transform
from restore_vlm.errors import UserError
from restore_vlm.evaluation import Evaluation, evaluate, summarise
from restore_vlm.evaluation.evaluate import BATCH
from restore_vlm.method import PromptedModel
from restore_vlm.training import read_tensors, write_tensors


def frozen_image_tower(model: PromptedModel) -> bool:
    """Whether nothing learned stands before the image tower's output."""
    return model.weights.image is None and not model.prompt_tokens()[1]


def evaluate_cached(model: PromptedModel, images: Subset, backbone: str, cache: Path) -> Evaluation:
    """:func:`restore_vlm.evaluation.evaluate`, the frozen tower's output read from ``cache`` if there.

    The same numbers to the bit: the same batches go through the same scorer.

    Args:
        model: Any; one with learned parts in its image tower is evaluated as ever.
        images: To test on.
        backbone: Identity of the model's backbone.
        cache: A folder.
    """
    if not frozen_image_tower(model):
        return evaluate(model, images.items, images.classes)
    features = _features(model, images, backbone, cache)
    model.set_classes(images.classes)
    tower, model.backbone.image = model.backbone.image, _Passed()  # type: ignore[assignment]
    try:
        with torch.inference_mode():
            score = model.scorer()
            device = model.backbone.device
            parts = [score(f.to(device)).softmax(-1).cpu() for f in features.split(BATCH)]
    finally:
        model.backbone.image = tower
    return summarise(torch.cat(parts), torch.tensor([i.label for i in images.items]), images.classes)


class _Passed(nn.Module):
    """Stands where the image tower was: what it is given are the features already."""

    def forward(self, features: Tensor, *_: Any) -> tuple[Tensor, list[Tensor]]:
        return features, []


def _features(model: PromptedModel, images: Subset, backbone: str, cache: Path) -> Tensor:
    """(n, d) outputs of the frozen image tower."""
    device = model.backbone.device
    key = {"images": images.digest, "backbone": backbone, "device": device.type}
    path = cache / f"{address(key)}.safetensors"
    with suppress(UserError, KeyError):
        found, of = read_tensors(path)
        if of == key and len(found["features"]) == len(images.items):
            return found["features"]
    loaded = loader(Images(images.items, test_transform(model.backbone.preprocess)), BATCH)
    with torch.inference_mode():
        features = torch.cat([model.backbone.image(batch.to(device))[0].cpu() for batch, _ in loaded])
    with suppress(UserError):  # a cache that cannot be written costs time, not results
        write_tensors(path, {"features": features}, key)
    return features
