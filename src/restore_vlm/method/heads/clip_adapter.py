"""CLIP-Adapter: a bottleneck on the image feature (arXiv 2110.04544)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.method.heads.head import Head, HeadConfig
from restore_vlm.method.part import TowerName


class ClipAdapterConfig(HeadConfig):
    """(1 - ratio) f + ratio A(f) on the image feature, A a bottleneck of two layers (arXiv 2110.04544).

    Attributes:
        ratio: Share of the bottleneck's output.
        reduction: By how much its hidden layer is narrower than the feature.
    """

    saved_as: ClassVar[str] = "adapter"

    ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    reduction: PositiveInt = 4

    @property
    def trainable(self) -> bool:
        return True

    def learns(self, tower: TowerName) -> bool:
        return tower == "image"

    def build(self, backbone: Backbone, classes: int) -> ClipAdapter:
        return ClipAdapter(self, backbone.dim)


class ClipAdapter(Head):
    """(1 - r) f + r A(f) on the projected, unnormalised image feature (CLIP-Adapter, arXiv 2110.04544).

    A is Linear(d, d / reduction), ReLU, Linear(d / reduction, d), ReLU, without biases.

    Args:
        config: r and the reduction.
        dim: d.

    Example:
        >>> head = ClipAdapter(ClipAdapterConfig(ratio=0.25, reduction=4), dim=8)
        >>> _ = [parameter.data.fill_(1) for parameter in head.parameters()]
        >>> head(torch.ones(1, 8))  # 0.75 + 0.25 * 2 * 8
        tensor([[4.7500, 4.7500, 4.7500, 4.7500, 4.7500, 4.7500, 4.7500, 4.7500]],
               grad_fn=<AddBackward0>)
    """

    def __init__(self, config: ClipAdapterConfig, dim: int) -> None:
        super().__init__()
        hidden = max(1, dim // config.reduction)
        down, up = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.layers = nn.Sequential(down, nn.ReLU(), up, nn.ReLU())
        self.ratio = config.ratio

    def forward(self, features: Tensor) -> Tensor:
        """(b, d) -> (b, d)."""
        return (1 - self.ratio) * features + self.ratio * self.layers(features)

    def image(self, features: Tensor) -> Tensor:
        return self(features)
