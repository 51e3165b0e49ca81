"""Keeps the image features near the frozen ones (PromptSRC)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from restore_vlm.method.encoded import Encoded
from restore_vlm.method.losses.distances import distance
from restore_vlm.method.losses.loss import Loss, LossConfig, Mean, Start, alone
from restore_vlm.method.part import Ratio


class ImageAnchorConfig(LossConfig):
    """Keeps the image features near the frozen ones (PromptSRC, arXiv 2307.06948).

    Attributes:
        weight: 10 in PromptSRC.
        distance: ``cosine``, 1 - mean cosine, or ``l1``, mean absolute difference of unit features.
    """

    sees: ClassVar[Literal["text", "image", "all"]] = "image"

    weight: Ratio = 10.0
    distance: Literal["cosine", "l1"] = "l1"

    @property
    def compares(self) -> frozenset[str]:
        return frozenset({"image"})

    def build(self, model: Start, mean: Mean = alone) -> ImageAnchor:
        return ImageAnchor(self)


class ImageAnchor(Loss):
    """Distance of the (b, d) image features f from the frozen g, unit vectors both.

    ``l1`` is the mean over images and coordinates of |f - g| (PromptSRC, arXiv 2307.06948);
    ``cosine``, 1 - mean over images of f . g.

    Example:
        >>> frozen = Encoded(image_features=torch.tensor([[0.6, 0.8]]))
        >>> out = Encoded(image_features=torch.tensor([[1.0, 0.0]]), frozen=frozen)
        >>> ImageAnchor(ImageAnchorConfig())(out, torch.tensor([0]))
        tensor(0.6000)
    """

    config: ImageAnchorConfig

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        return distance(out.image_features, out.frozen.image_features, self.config.distance)
