"""The weights part: towers whose own weights are learned."""

from __future__ import annotations

from typing import Any

from torch import nn

from restore_vlm.backbone import Backbone
from restore_vlm.method.config import WeightsConfig


class Weights(nn.Module):
    """Copies of the towers whose weights are learned, None where a tower stays as it is.

    Args:
        config: LoRA or fine-tuning, and of which towers.
        backbone: Stays as it is: copies share its frozen weights.
    """

    image: Any
    text: Any

    def __init__(self, config: WeightsConfig, backbone: Backbone) -> None:
        super().__init__()
        self.image = self.text = None
