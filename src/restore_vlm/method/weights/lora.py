"""LoRA: low-rank updates of a tower's attention (CLIP-LoRA, arXiv 2405.18541)."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.method.part import TowerName, Towers, in_words, within
from restore_vlm.method.weights.part import Inserted, WeightsPart, copied, learned


class LoraConfig(WeightsPart):
    """Low-rank updates W + (alpha / rank) B A of q, k and v in every block (CLIP-LoRA, arXiv 2405.18541).

    Attributes:
        towers: Which towers get them.
        rank: Rank of B A.
        alpha: Its scale, times the rank.
        dropout: Probability with which an input of A is dropped in training.
    """

    towers: Towers = "both"
    rank: PositiveInt = 2
    alpha: Annotated[float, Field(gt=0)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25

    def enters(self, tower: TowerName) -> bool:
        return within(tower, self.towers)

    def describe(self) -> str:
        return f"LoRA rank {self.rank}, {in_words(self.towers)}"

    def build(self, backbone: Backbone) -> dict[TowerName, Any]:
        """Towers that share their weights with the backbone, with updates in every block."""
        backbone.entered(self.towers, "LoRA cannot enter")
        names: tuple[TowerName, ...] = ("image", "text")
        made = {name: copied(getattr(backbone, name), lambda w: w) for name in names if self.learns(name)}
        for tower in made.values():
            for block in tower.blocks:
                block.qkv_linear.update = LowRank(self, block.qkv_linear.weight)
        return made


class LowRank(Inserted):
    """The updates (alpha / rank) B A of a block's q, k and v, computed as a path of their own.

    Each has its own A, kaiming-uniform as a linear layer's weight, and B, zero. In training every A
    sees the input through a dropout of its own (CLIP-LoRA, arXiv 2405.18541, which multiplies by
    alpha / sqrt(rank): its alpha = 1 is alpha = sqrt(rank) here). peft has no such layer: it reaches
    q, k and v of a fused in_proj as one matrix only, with one A for the three.

    The start of the text that all classes share is computed once, so it has one dropout mask for all.

    Args:
        config: Rank, alpha and dropout.
        weight: The fused (3 w, in) weight of the linear layer.

    Example:
        >>> update = LowRank(LoraConfig(rank=2, dropout=0), torch.zeros(12, 5))
        >>> update(torch.ones(1, 5), slice(None))  # B is zero at the start
        tensor([[0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.]], grad_fn=<...>)
        >>> update(torch.ones(1, 5), slice(4)).shape  # q alone
        torch.Size([1, 4])
    """

    def __init__(self, config: LoraConfig, weight: Tensor) -> None:
        super().__init__()
        width, like = weight.shape[0] // 3, learned(weight)
        self.a = nn.Parameter(like.new_empty(3, config.rank, weight.shape[1]))
        self.b = nn.Parameter(like.new_zeros(3, width, config.rank))
        for matrix in self.a.data:
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        self.scale, self.dropout = config.alpha / config.rank, config.dropout

    def forward(self, x: Tensor, rows: slice) -> Tensor:
        """(..., in) -> (..., out), the ``rows`` of the fused layer: whole matrices of the three."""
        width = self.b.shape[1]
        wanted = slice(*(None if edge is None else edge // width for edge in (rows.start, rows.stop)))
        a, b = self.a[wanted], self.b[wanted]
        x = F.dropout(x.expand(len(a), *x.shape), self.dropout, self.training)
        out = self.scale * (x.flatten(1, -2) @ a.mT @ b.mT)
        return out.transpose(0, 1).reshape(*x.shape[1:-1], -1)
