"""The weights part: towers whose own weights are learned."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.backbone.image_tower import ImageTower
from restore_vlm.backbone.text_tower import TextTower
from restore_vlm.backbone.tower import Tower
from restore_vlm.method.config import LoraConfig, WeightsConfig


class LowRank(nn.Module):
    """The updates (alpha / rank) B A of a block's q, k and v, computed as a path of their own.

    Each has its own A, kaiming-uniform as a linear layer's weight, and B, zero. In training every A
    sees the input through a dropout of its own (CLIP-LoRA, arXiv 2405.18541, which multiplies by
    alpha / sqrt(rank): its alpha = 1 is alpha = sqrt(rank) here). peft has no such layer: it reaches
    q, k and v of a fused in_proj as one matrix only, with one A for the three.

    The start of the text that all classes share is computed once, so it has one dropout mask for all.

    Args:
        config: Rank, alpha and dropout.
        weight: The fused (3 w, in) weight of the linear layer.
    """

    def __init__(self, config: LoraConfig, weight: Tensor) -> None:
        super().__init__()
        width, like = weight.shape[0] // 3, _learned(weight)
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


class Weights(nn.Module):
    """Copies of the towers whose weights are learned, None where a tower stays as it is.

    *LoRA*: frozen weights are those of the backbone, shared, with a :class:`LowRank` beside the
    q, k and v of every block. *Fine-tuning*: every weight of the copy is learned, in fp32.

    The towers stay in evaluation mode; only low-rank updates know training, for their dropout.

    Args:
        config: LoRA or fine-tuning, and of which towers.
        backbone: Stays as it is.

    Raises:
        UserError: If a tower that gets LoRA shows no blocks.
    """

    image: Any
    text: Any

    def __init__(self, config: WeightsConfig, backbone: Backbone) -> None:
        super().__init__()
        self.image = self.text = None
        change: Callable[[Any], Any]
        if config.lora is not None:
            lora, towers = config.lora, config.lora.towers
            backbone.entered(towers, "LoRA cannot enter")
            change = lambda tower: with_low_rank(tower, lora)  # noqa: E731
        elif config.finetune is not None:
            change, towers = with_learned_weights, config.finetune.towers
        else:
            return
        if towers != "text":
            self.image = change(backbone.image)
        if towers != "image":
            self.text = change(backbone.text)
        self.train(False)

    def train(self, mode: bool = True) -> Weights:
        super().train(False)
        for module in self.modules():
            if isinstance(module, LowRank):
                module.training = mode
        return self


def with_low_rank(tower: ImageTower | TextTower, config: LoraConfig) -> Any:
    """A copy of a tower that shares its weights and has low-rank updates of every block's q, k and v."""
    made = _copy(tower, lambda weight: weight)
    for block in made.blocks:
        block.qkv_linear.update = LowRank(config, block.qkv_linear.weight)
    return made


def with_learned_weights(tower: Tower) -> Any:
    """A copy of a tower with fp32 weights of its own, all of them learned."""
    return _copy(tower, _learned)


def _learned(weight: Tensor) -> nn.Parameter:
    """A copy in fp32 (or fp64) to learn."""
    return nn.Parameter(weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True))


def _copy(tower: Any, parameter: Callable[[nn.Parameter], nn.Parameter]) -> Any:
    """The modules copied, parameters replaced, whatever else is heavy shared."""
    memo: dict[int, Any] = {id(p): parameter(p) for p in tower.parameters()}
    memo |= {id(b): b for b in tower.buffers()}
    if tokenizer := getattr(tower, "tokenizer", None):
        memo[id(tokenizer)] = tokenizer
    return copy.deepcopy(tower, memo)
