"""The prompts part: learnable tokens for every layer of one or both towers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.method.config import PromptConfig

STD = 0.02


class Prompts(nn.Module):
    """Learned tokens per layer, in the text tower, the image tower or both.

    Args:
        config: Towers, coupling, depth, length and the words to start from.
        backbone: Gives widths, depths and word embeddings.
        classes: Number of training classes.

    Attributes:
        depth: Layers with prompts, at most what the prompted towers have.
        from_words: Whether the layer-0 text context starts from words; what is left of the
            template then stays as frozen words.
    """

    def __init__(self, config: PromptConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        text, image, n = backbone.text, backbone.image, config.length
        depths = {"text": [text.depth], "image": [image.depth], "both": [text.depth, image.depth]}
        self.depth = min(config.depth, *depths[config.towers])
        self.from_words = config.towers != "image" and len(config.init.split()) >= n
        if config.towers != "image":
            self.text = nn.ParameterList(torch.randn(n, text.width) * STD for _ in range(self.depth))
            if self.from_words:
                self.text[0].data.copy_(text.word_embeddings(config.init, n))
        if config.coupled:
            self.coupling = nn.ModuleList(nn.Linear(text.width, image.width) for _ in range(self.depth))
        elif config.towers != "text":
            self.image = nn.ParameterList(torch.randn(n, image.width) * STD for _ in range(self.depth))

    def forward(self) -> tuple[list[Tensor], list[Tensor]]:
        """Text and image tokens per layer, (n, width) each; an empty list for a tower without."""
        text = list(self.text) if hasattr(self, "text") else []
        if hasattr(self, "coupling"):
            with torch.autocast(text[0].device.type, enabled=False):
                return text, [linear(t) for linear, t in zip(self.coupling, text, strict=True)]
        return text, list(self.image) if hasattr(self, "image") else []
