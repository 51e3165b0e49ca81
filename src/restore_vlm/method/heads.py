"""The heads part: what happens to features and logits after the towers."""

from __future__ import annotations

from torch import Tensor, nn

from restore_vlm.method.config import HeadsConfig


class Heads(nn.Module):
    """CLIP-Adapter, TaskRes, Tip-Adapter and linear probe, each where the method has it.

    ``rows`` maps the classes asked about to those of training: (c,), -1 for a class never seen.

    Args:
        config: Which heads.
        dim: d of the shared embedding space.
        classes: Number of training classes.
    """

    def __init__(self, config: HeadsConfig, dim: int, classes: int) -> None:
        super().__init__()

    def text(self, features: Tensor, rows: Tensor) -> Tensor:
        """(c, d) or (b, c, d) unnormalised -> the same."""
        return features

    def image(self, features: Tensor) -> Tensor:
        """(b, d) unnormalised -> the same."""
        return features

    def logits(self, logits: Tensor, image_features: Tensor, rows: Tensor) -> Tensor:
        """(b, c) logits of the towers and (b, d) unit features -> (b, c)."""
        return logits
