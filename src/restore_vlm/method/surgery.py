"""Surgery: a residual correction of a tower's feature that grows once (RESTORE, arXiv 2403.06136)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from restore_vlm.method.part import Part, PartModule, Ratio, Tokens, TowerName
from restore_vlm.method.shift import prompt_norms


class SurgeryConfig(Part):
    """The residual correction f + r FFN(LN(f)) of each tower's feature.

    Attributes:
        text_ratio: r of the text tower.
        vision_ratio: r of the image tower.
        dynamic: Whether r grows once, after a third of the epochs, with the norm of the prompts.
        text_growth: Factor of that growth, text.
        vision_growth: Factor of that growth, vision.
    """

    text_ratio: Ratio = 0.05
    vision_ratio: Ratio = 0.05
    dynamic: bool = True
    text_growth: Ratio = 0.02
    vision_growth: Ratio = 0.005

    @property
    def trainable(self) -> bool:
        return True

    def learns(self, tower: TowerName) -> bool:
        return True

    def describe(self) -> str:
        return "dynamic surgery" if self.dynamic else "surgery"

    def build(self, dim: int) -> dict[TowerName, Surgery]:
        """The corrections of both towers, for features of ``dim`` numbers."""
        text, vision = (self.text_growth, self.vision_growth) if self.dynamic else (0.0, 0.0)
        return {
            "text": Surgery(dim, self.text_ratio, text, "text"),
            "image": Surgery(dim, self.vision_ratio, vision, "image"),
        }


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the activation of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Surgery(PartModule):
    """f + r FFN(LN(f)) on the projected, unnormalised feature (RESTORE, arXiv 2403.06136).

    FFN is Linear(d, 4d), QuickGELU, Linear(4d, d). The ratio r is set by the recipe and not
    learned; it is part of the state because it grows during training: at the end of epoch
    N // 3 of N, counted from 0, by the growth times the mean over layers 1..J-1 of ||P^T P||_F.

    Args:
        dim: d.
        ratio: r at the start.
        growth: Factor of its growth.
        tower: Whose prompts it grows with.

    Example:
        >>> features = torch.ones(2, 8)
        >>> Surgery(8, ratio=0.0)(features).equal(features)
        True
        >>> surgery = Surgery(8, ratio=0.1, growth=0.5, tower="text")
        >>> surgery(features).shape
        torch.Size([2, 8])
        >>> tokens = [torch.ones(1, 4), torch.ones(1, 4)]  # ||P^T P||_F of layer 1 is 4
        >>> surgery.end_epoch(1, 3, {"text": tokens, "image": []})
        >>> surgery.ratio
        tensor(2.1000)
    """

    ratio: Tensor

    def __init__(self, dim: int, ratio: float, growth: float = 0.0, tower: TowerName = "text") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), QuickGELU(), nn.Linear(4 * dim, dim))
        self.register_buffer("ratio", torch.tensor(float(ratio)))
        self.growth, self.tower = growth, tower

    def forward(self, features: Tensor) -> Tensor:
        """(b, d) -> (b, d)."""
        return features + self.ratio * self.ffn(self.norm(features))

    def end_epoch(self, epoch: int, epochs: int, tokens: Tokens) -> None:
        """The one growth of the ratio."""
        norms = prompt_norms(tokens[self.tower])
        if self.growth and epoch == epochs // 3 and len(norms):
            self.ratio += self.growth * norms.detach().mean()
