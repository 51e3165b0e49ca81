"""The surgery part: a residual correction of a tower's feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Surgery(nn.Module):
    """f + r FFN(LN(f)) on the projected, unnormalised feature (arXiv 2403.06136).

    FFN is Linear(d, 4d), QuickGELU, Linear(4d, d). The ratio r is set by the recipe and not
    learned; it is part of the state because it grows during training.

    Args:
        dim: d.
        ratio: r at the start.
    """

    ratio: Tensor

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), QuickGELU(), nn.Linear(4 * dim, dim))
        self.register_buffer("ratio", torch.tensor(float(ratio)))

    def forward(self, features: Tensor) -> Tensor:
        """(b, d) -> (b, d)."""
        return features + self.ratio * self.ffn(self.norm(features))

    def grow(self, factor: float, norms: Tensor) -> None:
        """r += factor x the mean of the tower's prompt norms (layers 1..J-1)."""
        if len(norms):
            self.ratio += factor * norms.detach().mean()
