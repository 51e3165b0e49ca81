"""The prompts part: learnable tokens for every layer of one or both towers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.backbone.class_prompts import ClassPrompts, Context
from restore_vlm.errors import UserError
from restore_vlm.method.config import PromptConfig

STD = 0.02
BOTTLENECK = 16
"""Of the meta-net: d / 16 hidden units."""


class Prompts(nn.Module):
    """Learned tokens per layer, in the text tower, the image tower or both.

    The layer-0 text context may differ between classes (CoOp, arXiv 2109.01134) or be shifted by
    a meta-net of the image's feature (CoCoOp, arXiv 2203.05557).

    Args:
        config: Towers, coupling, depth, length, the words to start from, what the context depends on.
        backbone: Gives widths, depths and word embeddings.
        classes: Number of training classes.

    Attributes:
        depth: Layers with prompts, at most what the prompted towers have.
        from_words: Whether the layer-0 text context starts from words; what is left of the
            template then stays as frozen words.

    Raises:
        UserError: If a prompted tower shows no blocks.
    """

    def __init__(self, config: PromptConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        text, image, n = backbone.text, backbone.image, config.length
        prompted = backbone.entered(config.towers, "Prompts cannot enter")
        self.config = config
        self.depth = min(config.depth, *(tower.depth for tower in prompted))
        self.from_words = config.towers != "image" and len(config.init.split()) >= n
        if config.towers != "image":
            self.text = nn.ParameterList(torch.randn(n, text.width) * STD for _ in range(self.depth))
            if self.from_words:
                self.text[0].data.copy_(text.word_embeddings(config.init, n))
            if config.per_class:
                own = self.text[0].data if self.from_words else torch.randn(classes, n, text.width) * STD
                self.text[0] = nn.Parameter(own.expand(classes, -1, -1).clone())
        if config.coupled:
            self.coupling = nn.ModuleList(nn.Linear(text.width, image.width) for _ in range(self.depth))
        elif config.towers != "text":
            self.image = nn.ParameterList(torch.randn(n, image.width) * STD for _ in range(self.depth))
        if config.conditional:
            hidden = max(1, backbone.dim // BOTTLENECK)
            self.meta_net = nn.Sequential(
                OrderedDict(
                    linear1=nn.Linear(backbone.dim, hidden),
                    relu=nn.ReLU(),
                    linear2=nn.Linear(hidden, text.width),
                )
            )

    def tokenize(self, backbone: Backbone, names: Sequence[str]) -> ClassPrompts:
        """Names as the text tower reads them, with room for the learned context."""
        config = self.config
        words = config.init if self.from_words else ""
        return backbone.text.tokenize_names(
            names, Context(config.length, words, config.class_position, config.per_class)
        )

    def forward(self) -> tuple[list[Tensor], list[Tensor]]:
        """Text and image tokens per layer, (n, width) each; an empty list for a tower without.

        Text layer 0 is (training classes, n, width) where every class has its own.
        """
        text = list(self.text) if hasattr(self, "text") else []
        if hasattr(self, "coupling"):
            with torch.autocast(text[0].device.type, enabled=False):
                return text, [linear(t) for linear, t in zip(self.coupling, text, strict=True)]
        return text, list(self.image) if hasattr(self, "image") else []

    def text_for(
        self, text: Sequence[Tensor], rows: Tensor, image_features: Tensor | None = None
    ) -> list[Tensor]:
        """The text tokens per layer for the classes and images asked about.

        Args:
            text: From :meth:`forward`.
            rows: (c,) training row of each class, -1 for one never seen: where every class has its
                own context, that one gets the mean of all of them.
            image_features: (b, d), unit length; needed where the context depends on them.

        Returns:
            As given, with layer 0 (c, n, width) if per class and (b, n, width) if conditional:
            context + Linear(ReLU(Linear(image_features))), in full precision.

        Raises:
            UserError: If the context depends on images and there are none.
        """
        context, *deeper = text
        if self.config.per_class:
            context = torch.cat([context, context.mean(0, keepdim=True)])[rows]
        if self.config.conditional:
            if image_features is None:
                raise UserError("Conditional prompts have no class features without an image to ask about.")
            with torch.autocast(context.device.type, enabled=False):
                shift = self.meta_net(image_features.to(context.dtype))
            context = context + shift[:, None]
        return [context, *deeper]
