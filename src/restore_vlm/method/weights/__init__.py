"""Changes to the backbone's own weights, one file for each kind."""

from __future__ import annotations

from typing import Any

from restore_vlm.backbone import Backbone
from restore_vlm.method.part import Group, PartModule
from restore_vlm.method.weights.finetune import FinetuneConfig
from restore_vlm.method.weights.lora import LoraConfig, LowRank
from restore_vlm.method.weights.part import Inserted, WeightsPart

__all__ = ["FinetuneConfig", "LoraConfig", "LowRank", "Weights", "WeightsConfig", "WeightsPart"]


class WeightsConfig(Group):
    """Changes to the backbone's own weights; at most one kind."""

    lora: LoraConfig | None = None
    finetune: FinetuneConfig | None = None


class Weights(PartModule):
    """Copies of the towers whose weights are learned, None where a tower stays as it is.

    The towers stay in evaluation mode; only what was put into them knows training.

    Args:
        config: What changes, and in which towers.
        backbone: Stays as it is.

    Raises:
        UserError: If a tower that has to be entered shows no blocks.
    """

    image: Any
    text: Any

    def __init__(self, config: WeightsConfig, backbone: Backbone) -> None:
        super().__init__()
        self.image = self.text = None
        for part in config.parts().values():
            assert isinstance(part, WeightsPart)
            for name, tower in part.build(backbone).items():
                setattr(self, name, tower)
        self.train(False)

    def train(self, mode: bool = True) -> Weights:
        super().train(False)
        for module in self.modules():
            if isinstance(module, Inserted):
                module.train(mode)
        return self
