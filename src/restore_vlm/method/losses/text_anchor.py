"""Keeps the class features near those of the hand-written prompts (KgCoOp, PromptSRC)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from torch import Tensor

from restore_vlm.method.encoded import Encoded
from restore_vlm.method.losses.distances import distance
from restore_vlm.method.losses.loss import Loss, LossConfig, Mean, Start, alone
from restore_vlm.method.part import Composition, Ratio


class TextAnchorConfig(LossConfig):
    """Keeps the class features near those of the hand-written prompts.

    Attributes:
        weight: 8 in KgCoOp (arXiv 2303.13283), 25 in PromptSRC (arXiv 2307.06948).
        distance: ``cosine``, 1 - mean cosine (KgCoOp), or ``l1``, mean absolute difference of
            unit features (PromptSRC).
    """

    sees: ClassVar[Literal["text", "image", "all"]] = "text"

    weight: Ratio = 8.0
    distance: Literal["cosine", "l1"] = "cosine"

    @property
    def compares(self) -> frozenset[str]:
        return frozenset({"text"})

    def conflicts(self, method: Composition) -> Iterable[str]:
        if method.conditional:
            yield "conditional prompts have no fixed text features to anchor (set losses.text_anchor = none)"

    def build(self, model: Start, mean: Mean = alone) -> TextAnchor:
        return TextAnchor(self)


class TextAnchor(Loss):
    """Distance of the (c, d) class features t from those w of the hand-written prompts, unit vectors both.

    ``cosine`` is KgCoOp's, 1 - mean over classes of t . w (arXiv 2303.13283); ``l1`` PromptSRC's, the
    mean over classes and coordinates of |t - w| (arXiv 2307.06948).

    Example:
        >>> frozen = Encoded(text_features=torch.tensor([[0.6, 0.8]]))
        >>> out = Encoded(text_features=torch.tensor([[1.0, 0.0]]), frozen=frozen)
        >>> TextAnchor(TextAnchorConfig(distance="cosine"))(out, torch.tensor([0]))
        tensor(0.4000)
    """

    config: TextAnchorConfig

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        return distance(out.text_features, out.frozen.text_features, self.config.distance)
