"""The losses part: what a training step adds up, by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore_vlm.method.config import FeatureShiftConfig, LossesConfig, MethodConfig
from restore_vlm.method.model import Encoded, PromptedModel
from restore_vlm.method.shift import consistency, embedding_shift, prompt_norms, tempered

Mean = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Tensors of this process -> their means over all that share a batch; a gradient passes as it is."""


def alone(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The :data:`Mean` of a single process."""
    return tensors


def distance(features: Tensor, frozen: Tensor, kind: str) -> Tensor:
    """Mean distance of (n, d) unit features from frozen ones: 1 - cosine, or ``l1`` per coordinate."""
    if kind == "cosine":
        return 1 - (features * frozen).sum(-1).mean()
    return F.l1_loss(features, frozen)


def divergence(logits: Tensor, zero_shot: Tensor) -> Tensor:
    """KL(zero-shot || tuned) of (b, c) logits, summed over both dimensions."""
    return F.kl_div(logits.log_softmax(-1), zero_shot.log_softmax(-1), reduction="sum", log_target=True)


class Frozen:
    """The frozen model beside the tuned one, asked no more than it must be.

    Classes are encoded once, images once per step however many parts compare with them, and not at
    all where the method leaves the image tower as it is.

    Args:
        model: Holding the training classes.
        needs: What is compared with: ``text``, ``image``, ``states``.
    """

    def __init__(self, model: PromptedModel, needs: set[str]) -> None:
        self.needs, self.backbone = needs, model.backbone
        self.untouched = not model.config.learns("image")
        self.text_features, self.text_states = torch.empty(0), list[Tensor]()
        if "text" in needs:
            self.text_features = F.normalize(model.hand_written().mean, dim=-1)
        if "states" in needs:
            with torch.no_grad():
                classes = model.frozen_classes(model.classnames)
                self.text_states = model.backbone.text(classes, states=True)[1]

    @torch.no_grad()
    def __call__(self, images: Tensor, tuned: Encoded) -> Encoded:
        """What is needed of the frozen model for a step's images."""
        out = Encoded()
        out.text_features, out.text_states = self.text_features, self.text_states
        if self.untouched:
            out.image_features = tuned.image_features.detach()
        elif self.needs & {"image", "states"}:
            features, out.image_states = self.backbone.image(images, states="states" in self.needs)
            out.image_features = F.normalize(features.float(), dim=-1)
        if {"text", "image"} <= self.needs:
            out.logits = self.backbone.logits(out.image_features, out.text_features)
        return out


class Loss(nn.Module, ABC):
    """One named term of the training loss.

    Args:
        config: The part of :class:`LossesConfig` that has its name.
        model: At initialisation, holding the training classes.
        mean: For means over images that the term is not linear in; the term itself is averaged anyway.
    """

    def __init__(self, config: Any, model: PromptedModel, mean: Mean = alone) -> None:
        super().__init__()
        self.config, self.mean = config, mean

    @property
    def needs(self) -> set[str]:
        """What of the frozen model it compares with: ``text``, ``image``, ``states``."""
        return set()

    @abstractmethod
    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        """The scalar loss, unweighted; ``out.frozen`` holds what it needs of the frozen model."""


class CrossEntropy(Loss):
    """Of the (b, c) logits against the labels."""

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        return F.cross_entropy(out.logits, labels)


class FeatureShift(Loss):
    """Feature-shift consistency, L_fs = sum over layers (s_text - s_vision)^2 (arXiv 2403.06136).

    The ``prompt`` measure is relative to the prompts that the model starts from.
    """

    config: FeatureShiftConfig
    text_reference: Tensor
    image_reference: Tensor

    def __init__(self, config: FeatureShiftConfig, model: PromptedModel, mean: Mean = alone) -> None:
        super().__init__(config, model, mean)
        with torch.no_grad():
            text, image = model.prompt_tokens()
            self.register_buffer("text_reference", prompt_norms(text).clone())
            self.register_buffer("image_reference", prompt_norms(image).clone())

    @property
    def needs(self) -> set[str]:
        return {"states"} if self.config.measure == "embedding" else set()

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        if self.config.measure == "prompt":
            text = prompt_norms(out.text_prompts) / self.text_reference
            image = prompt_norms(out.image_prompts) / self.image_reference
            return consistency(tempered(text), tempered(image))
        text = embedding_shift(out.text_states, out.frozen.text_states)
        image = embedding_shift(out.image_states, out.frozen.image_states)
        return consistency(*self.mean([text, image]))


class TextAnchor(Loss):
    """Distance of the (c, d) class features from those of the hand-written prompts.

    ``cosine`` is KgCoOp's, 1 - mean cosine (arXiv 2303.13283); ``l1`` PromptSRC's, the mean absolute
    difference (arXiv 2307.06948).
    """

    @property
    def needs(self) -> set[str]:
        return {"text"}

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        return distance(out.text_features, out.frozen.text_features, self.config.distance)


class ImageAnchor(Loss):
    """Distance of the (b, d) image features from the frozen ones (PromptSRC, arXiv 2307.06948)."""

    @property
    def needs(self) -> set[str]:
        return {"image"}

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        return distance(out.image_features, out.frozen.image_features, self.config.distance)


class LogitAnchor(Loss):
    """KL(zero-shot || tuned), divided by the number b c of logits (PromptSRC, arXiv 2307.06948)."""

    @property
    def needs(self) -> set[str]:
        return {"text", "image"}

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        return divergence(out.logits, out.frozen.logits) / out.logits.numel()


LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "feature_shift": FeatureShift,
    "text_anchor": TextAnchor,
    "image_anchor": ImageAnchor,
    "logit_anchor": LogitAnchor,
}
"""The terms by the name of their part in :class:`LossesConfig`."""
assert LOSSES.keys() == LossesConfig.model_fields.keys()


class Losses(nn.Module):
    """The training loss of a method as a dict of named, weighted terms.

    Args:
        config: The method.
        model: At initialisation, holding the training classes.
        mean: Over the processes that share a batch.
    """

    def __init__(self, config: MethodConfig, model: PromptedModel, mean: Mean = alone) -> None:
        super().__init__()
        self.mean = mean
        parts = {name: part for name, part in config.losses if part is not None}
        terms = {name: LOSSES[name](part, model, mean) for name, part in parts.items()}
        self.weights = {name: part.weight for name, part in parts.items()}
        self.terms = nn.ModuleDict(terms)
        needs = {"text", "image"} if config.gradient == "prograd" else set[str]()
        needs = needs.union(*(term.needs for term in terms.values()))
        self.needs_states = "states" in needs
        self.frozen = Frozen(model, needs)

    def forward(
        self, model: PromptedModel, images: Tensor, labels: Tensor
    ) -> tuple[Encoded, dict[str, Tensor]]:
        """Runs the model and returns its output with every term, weighted, by name."""
        out = model.encode(images, self.needs_states)
        out.frozen = self.frozen(images, out)
        terms = [self.weights[name] * term(out, labels) for name, term in self.terms.items()]
        return out, dict(zip(self.terms, self.mean(terms), strict=True))
