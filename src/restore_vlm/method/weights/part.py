"""What a part that changes a backbone's own weights has to say, and what it is made with."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.method.part import Composition, Part, PartModule, TowerName, Towers, within


class WeightsPart(Part):
    """Towers whose own weights are learned, or that have something learned between their blocks.

    Attributes:
        towers: Which.
    """

    towers: Towers = "both"

    @property
    def trainable(self) -> bool:
        return True

    def learns(self, tower: TowerName) -> bool:
        return within(tower, self.towers)

    def conflicts(self, method: Composition) -> Iterable[str]:
        kinds = [name for name, part in method.parts().items() if isinstance(part, WeightsPart)]
        if len(kinds) > 1:
            yield f"weights are changed in one way: {' or '.join(kinds)}, not both"

    @abstractmethod
    def build(self, backbone: Backbone) -> dict[TowerName, Any]:
        """Changed copies of the towers it changes, made by :func:`copied`; the backbone stays as it is.

        Raises:
            UserError: If a tower it enters shows no blocks.
        """


class Inserted(PartModule):
    """What is put into a tower: the one thing in it that knows training from evaluation."""


def copied(tower: Any, parameter: Callable[[nn.Parameter], nn.Parameter]) -> Any:
    """A copy of a tower: modules anew, parameters replaced, whatever else is heavy shared.

    Args:
        tower: Of a backbone.
        parameter: What stands in the copy for each parameter: :func:`learned`, or itself to share it.
    """
    memo: dict[int, Any] = {id(p): parameter(p) for p in tower.parameters()}
    memo |= {id(b): b for b in tower.buffers()}
    if tokenizer := getattr(tower, "tokenizer", None):
        memo[id(tokenizer)] = tokenizer
    return copy.deepcopy(tower, memo)


def learned(weight: Tensor) -> nn.Parameter:
    """A copy in fp32 (or fp64) to learn."""
    return nn.Parameter(weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True))
