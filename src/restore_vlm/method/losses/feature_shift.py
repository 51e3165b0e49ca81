"""Feature-shift consistency, L_fs (RESTORE, arXiv 2403.06136)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from restore_vlm.method.encoded import Encoded
from restore_vlm.method.losses.loss import Loss, LossConfig, Mean, Start, alone
from restore_vlm.method.part import Composition
from restore_vlm.method.prompts import PromptConfig
from restore_vlm.method.shift import consistency, embedding_shift, prompt_norms, tempered


class FeatureShiftConfig(LossConfig):
    """L_fs, which keeps the two towers moving by as much as each other.

    Attributes:
        weight: lambda.
        measure: ``prompt`` (input-free) or ``embedding`` (the definition).
    """

    measure: Literal["prompt", "embedding"] = "prompt"

    @property
    def compares(self) -> frozenset[str]:
        return frozenset({"states"} if self.measure == "embedding" else ())

    def conflicts(self, method: Composition) -> Iterable[str]:
        prompts = [part for part in method.parts().values() if isinstance(part, PromptConfig)]
        if not any(part.towers == "both" for part in prompts):
            yield (
                "feature-shift consistency compares the towers: it needs prompts in both "
                '(set prompts.towers = "both", or losses.feature_shift = none)'
            )
        if method.conditional:
            yield (
                "conditional prompts have no fixed text tower to measure the shift of "
                "(set prompts.conditional = false, or losses.feature_shift = none)"
            )

    def build(self, model: Start, mean: Mean = alone) -> FeatureShift:
        return FeatureShift(self, model, mean)


class FeatureShift(Loss):
    """Feature-shift consistency, L_fs = sum over layers of (s_text - s_vision)^2 (arXiv 2403.06136).

    s is a layer's shift by one of two measures, see :mod:`restore_vlm.method.shift`; ``prompt`` is
    relative to the prompts that the model starts from, (n, width) each.

    Args:
        config: The measure.
        model: Before the first step.
        mean: Over the processes that share a batch.

    Example:
        >>> class Model:
        ...     def prompt_tokens(self):
        ...         return [torch.ones(2, 4)] * 2, [torch.ones(2, 6)] * 2
        >>> loss = FeatureShift(FeatureShiftConfig(), Model())
        >>> text, image = Model().prompt_tokens()
        >>> labels = torch.tensor([0])
        >>> loss(Encoded(text_prompts=text, image_prompts=image), labels)
        tensor(0.)
        >>> moved = [text[0], 1.2 * text[1]]  # s = 1.44 in the text tower, 1 in the image tower
        >>> loss(Encoded(text_prompts=moved, image_prompts=image), labels)
        tensor(0.1936)
    """

    config: FeatureShiftConfig
    text_reference: Tensor
    image_reference: Tensor

    def __init__(self, config: FeatureShiftConfig, model: Start, mean: Mean = alone) -> None:
        super().__init__(config)
        self.mean = mean
        with torch.no_grad():
            text, image = model.prompt_tokens()
            self.register_buffer("text_reference", prompt_norms(text).clone())
            self.register_buffer("image_reference", prompt_norms(image).clone())

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        if self.config.measure == "prompt":
            text = prompt_norms(out.text_prompts) / self.text_reference
            image = prompt_norms(out.image_prompts) / self.image_reference
            return consistency(tempered(text), tempered(image))
        text = embedding_shift(out.text_states, out.frozen.text_states)
        image = embedding_shift(out.image_states, out.frozen.image_states)
        return consistency(*self.mean([text, image]))
