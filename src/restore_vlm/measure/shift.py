"""Feature shift: how far each tower moves once the learned parts are in (arXiv 2403.06136).

Measured on a finished model by the definition, whatever its method changes; the mathematics of the loss
is in :mod:`restore_vlm.method.shift`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from restore_vlm.errors import UserError
from restore_vlm.method import MethodConfig, PromptedModel

CONDITIONED = 16
"""Images whose own prompts are looked at block by block, and whose class features are compared at once."""


@dataclass(frozen=True)
class Spread:
    """Mean and quartiles over images or classes."""

    mean: float
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """From any number of values, at least one."""
        low, median, high = (
            values.double().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.double)).tolist()
        )
        return cls(values.double().mean().item(), low, median, high)


@dataclass(frozen=True)
class Shift:
    """How far embeddings moved at one place of a tower.

    Attributes:
        absolute: ||tuned - frozen||.
        relative: ||tuned - frozen|| / ||frozen||.
        cosine: Between tuned and frozen.
    """

    absolute: Spread
    relative: Spread
    cosine: Spread

    @classmethod
    def between(cls, tuned: Tensor, frozen: Tensor) -> Shift:
        """Of (..., width) embeddings; frozen ones broadcast."""
        return cls(*(Spread.of(values.flatten()) for values in _apart(tuned, frozen)))


@dataclass(frozen=True)
class Alignment:
    """How images and classes lie in the shared space.

    Attributes:
        matching: Mean cosine of images with their own class; None without labels.
        gap: Distance between the mean image and the mean class feature (the modality gap).
    """

    matching: float | None
    gap: float

    @classmethod
    def of(cls, images: Tensor, text: Tensor, labels: Tensor | None) -> Alignment:
        """(b, d) unit image features, (c, d) or (b, c, d) unit class features, (b,) labels."""
        each = text.expand(len(images), -1, -1)
        matching = None
        if labels is not None:
            matching = (images * each[torch.arange(len(images)), labels]).sum(-1).mean().item()
        return cls(matching, (images.mean(0) - text.flatten(0, -2).mean(0)).norm().item())


@dataclass(frozen=True)
class Measurement:
    """Feature shift of a tuned model on some images and classes.

    Attributes:
        image: Per block, at the class token (or the mean patch token) over images; empty for a tower that
            shows no blocks.
        text: Per block, at end-of-text over classes; likewise.
        image_feature: Of the final unit features of images.
        text_feature: Of those of classes.
        discrepancy: Per block of both towers, (s_text - s_image)^2 of the mean relative shifts.
        before: Alignment of the frozen features.
        after: Alignment of the tuned features.
        by_class: ||tuned - frozen|| of the unit feature of every class, by name.
    """

    image: list[Shift]
    text: list[Shift]
    image_feature: Shift
    text_feature: Shift
    discrepancy: list[float]
    before: Alignment
    after: Alignment
    by_class: dict[str, float]

    @property
    def total_discrepancy(self) -> float | None:
        """Sum over blocks; None where a tower shows none."""
        return sum(self.discrepancy) if self.discrepancy else None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "total_discrepancy": self.total_discrepancy}


@dataclass(frozen=True)
class Embeddings:
    """Per-block states and unit features of images and classes in one model, on the CPU."""

    image_states: list[Tensor]
    text_states: list[Tensor]
    image_features: Tensor
    text_features: Tensor


@torch.inference_mode()
def embeddings(model: PromptedModel, images: Sequence[Tensor], classnames: Sequence[str]) -> Embeddings:
    """States and features of batches of normalised images (b, 3, h, w), tuned.

    Prompts that depend on the image give class features (images, classes, width), and class states
    (16, classes, width) of the first 16 images, for these are many. The model keeps its classes.
    """
    if model.classnames != list(classnames):
        model = copy(model)
        model.set_classes(classnames)
    device = model.backbone.device
    seen = [model.encode_image(batch.to(device), states=True) for batch in images]
    features = torch.cat([f for f, _ in seen])
    states = [torch.cat(block) for block in zip(*(s for _, s in seen), strict=True)]
    few = features[:CONDITIONED] if model.config.conditional else features
    text, text_states = model.encode_text(states=True, image_features=few)
    if len(few) < len(features):
        text, _ = model.encode_text(image_features=features)
    return Embeddings([s.cpu() for s in states], [s.cpu() for s in text_states], features.cpu(), text.cpu())


def frozen_embeddings(
    model: PromptedModel, images: Sequence[Tensor], classnames: Sequence[str]
) -> Embeddings:
    """The same without anything learned; it serves every model of that backbone and template."""
    bare = MethodConfig(name="clip", template=model.config.template)
    return embeddings(PromptedModel(model.backbone, bare, classnames).eval(), images, classnames)


def measure(
    model: PromptedModel,
    batches: Sequence[Tensor],
    classnames: Sequence[str],
    labels: Sequence[int] | None = None,
    frozen: Embeddings | None = None,
) -> Measurement:
    """Measures how far a tuned model's embeddings are from the frozen ones (arXiv 2403.06136).

    Args:
        model: Of any method.
        batches: Of normalised images, (b, 3, h, w) each.
        classnames: Classes, seen in training or not.
        labels: Of every image, an index of ``classnames``; without them there is no matching cosine.
        frozen: From :func:`frozen_embeddings`, where several models are compared on the same images.

    Raises:
        UserError: If there is no image or no class.
    """
    if not batches or not classnames:
        raise UserError("Feature shift is measured on images and classes; give at least one of each.")
    frozen = frozen or frozen_embeddings(model, batches, classnames)
    tuned = embeddings(model, batches, classnames)
    index = None if labels is None else torch.tensor(labels)
    image = [Shift.between(t, f) for t, f in zip(tuned.image_states, frozen.image_states, strict=True)]
    text = [Shift.between(t, f) for t, f in zip(tuned.text_states, frozen.text_states, strict=True)]
    return Measurement(
        image,
        text,
        Shift.between(tuned.image_features, frozen.image_features),
        Shift.between(tuned.text_features, frozen.text_features),
        # Towers of unequal depth are compared over their first blocks.
        [(t.relative.mean - i.relative.mean) ** 2 for t, i in zip(text, image, strict=False)],
        Alignment.of(frozen.image_features, frozen.text_features, index),
        Alignment.of(tuned.image_features, tuned.text_features, index),
        dict(zip(classnames, _distance(tuned.text_features, frozen.text_features), strict=True)),
    )


def _distance(tuned: Tensor, frozen: Tensor) -> list[float]:
    """Of (..., classes, width) features, the mean over images where they depend on the image."""
    distance = _apart(tuned, frozen)[0]
    return distance.reshape(-1, distance.shape[-1]).mean(0).tolist()


def _apart(tuned: Tensor, frozen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """||tuned - frozen||, the same over ||frozen||, and their cosine: (...) of (..., width) each."""
    few = CONDITIONED if tuned.ndim == 3 else len(tuned)
    rows = []
    for some, before in zip(tuned.split(few), frozen.expand_as(tuned).split(few), strict=True):
        t, f = some.double(), before.double()
        distance = (t - f).norm(dim=-1)
        rows.append((distance, distance / f.norm(dim=-1), F.cosine_similarity(t, f, dim=-1)))
    distance, relative, cosine = (torch.cat(values) for values in zip(*rows, strict=True))
    return distance, relative, cosine
