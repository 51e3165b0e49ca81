"""Fine-tuning: every weight of a tower is learned."""

from __future__ import annotations

from typing import Any

from restore_vlm.backbone import Backbone
from restore_vlm.method.part import TowerName, Towers, in_words, within
from restore_vlm.method.weights.part import WeightsPart, copied, learned


class FinetuneConfig(WeightsPart):
    """Every weight of a tower is learned, in fp32; any tower will do.

    Attributes:
        towers: Which.

    Example:
        >>> from restore_vlm.backbone import load_backbone
        >>> backbone = load_backbone("tiny")
        >>> towers = FinetuneConfig(towers="image").build(backbone)
        >>> list(towers)
        ['image']
        >>> all(p.requires_grad for p in towers["image"].parameters())
        True
        >>> any(p.requires_grad for p in backbone.parameters())
        False
    """

    towers: Towers = "image"

    def describe(self) -> str:
        return f"all weights, {in_words(self.towers)}"

    def build(self, backbone: Backbone) -> dict[TowerName, Any]:
        names: tuple[TowerName, ...] = ("image", "text")
        return {name: copied(getattr(backbone, name), learned) for name in names if within(name, self.towers)}
