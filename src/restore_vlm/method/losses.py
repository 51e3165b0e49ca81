"""The losses part: what a training step adds up, by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore_vlm.method.config import FeatureShiftConfig, MethodConfig
from restore_vlm.method.model import Encoded, PromptedModel
from restore_vlm.shift import consistency, embedding_shift, prompt_norms, tempered


class FeatureShiftLoss(nn.Module):
    """Feature-shift consistency, L_fs = sum over layers (s_text - s_vision)^2 (arXiv 2403.06136).

    Args:
        config: Weight and measure.
        model: At initialisation; the ``prompt`` measure is relative to its prompts.
    """

    text_reference: Tensor
    image_reference: Tensor

    def __init__(self, config: FeatureShiftConfig, model: PromptedModel) -> None:
        super().__init__()
        self.measure = config.measure
        with torch.no_grad():
            text, image = model.prompt_tokens()
            self.register_buffer("text_reference", prompt_norms(text).clone())
            self.register_buffer("image_reference", prompt_norms(image).clone())
            self._frozen_text: list[Tensor] = []
            if self.measure == "embedding":
                self._frozen_text = model.backbone.text(model.frozen_classes(model.classnames), states=True)[
                    1
                ]

    def forward(self, model: PromptedModel, images: Tensor, out: Encoded) -> Tensor:
        """The scalar loss; ``out`` must carry states for the ``embedding`` measure."""
        if self.measure == "prompt":
            text = prompt_norms(out.text_prompts) / self.text_reference
            image = prompt_norms(out.image_prompts) / self.image_reference
            return consistency(tempered(text), tempered(image))
        with torch.no_grad():
            frozen_image = model.backbone.image(images, states=True)[1]
        return consistency(
            embedding_shift(out.text_states, self._frozen_text),
            embedding_shift(out.image_states, frozen_image),
        )


class Losses(nn.Module):
    """The training loss of a method as a dict of named, weighted terms.

    Args:
        config: The method.
        model: At initialisation, holding the training classes.
    """

    def __init__(self, config: MethodConfig, model: PromptedModel) -> None:
        super().__init__()
        losses = config.losses
        self.weights = {n: part.weight for n, part in losses if part is not None}
        self.feature_shift = FeatureShiftLoss(losses.feature_shift, model) if losses.feature_shift else None

    @property
    def needs_states(self) -> bool:
        return self.feature_shift is not None and self.feature_shift.measure == "embedding"

    def forward(
        self, model: PromptedModel, images: Tensor, labels: Tensor
    ) -> tuple[Encoded, dict[str, Tensor]]:
        """Runs the model and returns its output with every term, weighted, by name."""
        out = model.encode(images, self.needs_states)
        terms = {}
        if "cross_entropy" in self.weights:
            terms["cross_entropy"] = F.cross_entropy(out.logits, labels)
        if self.feature_shift is not None:
            terms["feature_shift"] = self.feature_shift(model, images, out)
        return out, {name: self.weights[name] * term for name, term in terms.items()}
