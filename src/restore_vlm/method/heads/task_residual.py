"""TaskRes: a learned residual for each class on its text feature (arXiv 2211.10277)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.method.heads.head import Head, HeadConfig
from restore_vlm.method.part import Ratio, TowerName


class TaskResidualConfig(HeadConfig):
    """t + alpha x, one learned x per training class, on the text feature (TaskRes, arXiv 2211.10277).

    Attributes:
        alpha: Scale of the residual.
    """

    saved_as: ClassVar[str] = "residual"

    alpha: Ratio = 0.5

    @property
    def trainable(self) -> bool:
        return True

    def learns(self, tower: TowerName) -> bool:
        return tower == "text"

    def build(self, backbone: Backbone, classes: int) -> TaskResidual:
        return TaskResidual(self, backbone.dim, classes)


class TaskResidual(Head):
    """t + alpha x on the projected, unnormalised text feature (TaskRes, arXiv 2211.10277).

    x is learned, one vector per training class, zero at the start; other classes keep their t.

    Args:
        config: alpha.
        dim: d.
        classes: Number of training classes.

    Example:
        >>> head = TaskResidual(TaskResidualConfig(alpha=0.5), dim=2, classes=3)
        >>> head.residual.data[2] = 1
        >>> head(torch.ones(2, 2), rows=torch.tensor([2, -1])).detach()  # a class of training, a new one
        tensor([[1.5000, 1.5000],
                [1.0000, 1.0000]])
    """

    def __init__(self, config: TaskResidualConfig, dim: int, classes: int) -> None:
        super().__init__()
        self.residual = nn.Parameter(torch.zeros(classes, dim))
        self.alpha = config.alpha

    def forward(self, features: Tensor, rows: Tensor) -> Tensor:
        """(c, d) or (b, c, d), of training classes ``rows`` (c,) -> the same."""
        known = (rows >= 0)[:, None]
        return features + self.alpha * known * self.residual[rows.clamp(min=0)]

    def text(self, features: Tensor, rows: Tensor) -> Tensor:
        return self(features, rows)
