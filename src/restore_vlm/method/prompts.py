"""Prompts: learned tokens in the layers of one or both towers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.backbone.class_prompts import ClassPrompts, ClassTokens, Context
from restore_vlm.errors import UserError
from restore_vlm.method.part import Composition, Part, PartModule, TowerName, Towers, within

STD = 0.02
BOTTLENECK = 16
"""The meta-net has d / 16 hidden units."""


class PromptConfig(Part):
    """Learned tokens: in which towers, how deep, and whether the towers share them.

    Attributes:
        towers: Where the prompts are.
        coupled: Whether image tokens are a linear map of the text tokens (MaPLe, RESTORE).
        depth: Layers that get fresh prompts; more than the towers have means all of them.
        length: Tokens per layer.
        init: Words whose embeddings the layer-0 text context starts from; used where it has
            at least ``length`` words, else the context is random.
        class_position: Where the class name stands among the text context tokens (CoOp).
        per_class: Whether every training class has its own layer-0 text context (CoOp).
        conditional: Whether a small network shifts the layer-0 text context by the image's
            feature (CoCoOp).
    """

    towers: Towers = "both"
    coupled: bool = False
    depth: PositiveInt = 9
    length: PositiveInt = 2
    init: str = "a photo of a"
    class_position: Literal["end", "middle", "front"] = "end"
    per_class: bool = False
    conditional: bool = False

    @model_validator(mode="after")
    def _compatible(self) -> PromptConfig:
        if self.coupled and self.towers != "both":
            raise ValueError('coupled prompts need towers = "both"')
        textual = self.per_class or self.conditional or self.class_position != "end"
        if self.towers == "image" and textual:
            raise ValueError(
                "class_position, per_class and conditional are about text prompts: there are none"
            )
        if self.coupled and (self.per_class or self.conditional):
            raise ValueError(
                "coupled image prompts are a map of the text prompts, so those can depend neither on the "
                "class nor on the image; set coupled = false"
            )
        if self.per_class and self.conditional:
            raise ValueError("context is either per class or conditional on the image, not both")
        return self

    @property
    def trainable(self) -> bool:
        return True

    @property
    def per_image(self) -> bool:
        return self.conditional

    def learns(self, tower: TowerName) -> bool:
        return within(tower, self.towers)

    def enters(self, tower: TowerName) -> bool:
        return within(tower, self.towers)

    def conflicts(self, method: Composition) -> Iterable[str]:
        kinds = [key for key, part in method.parts().items() if isinstance(part, PromptConfig)]
        if len(kinds) > 1:
            yield f"learned tokens are of one kind: {' or '.join(kinds)}, not both"

    def describe(self) -> str:
        kinds = {"per class": self.per_class, "conditional": self.conditional, "coupled": self.coupled}
        kinds[f"class name {self.class_position}"] = self.class_position != "end"
        towers = "text + image" if self.towers == "both" else self.towers
        said = [f"{towers} prompts {self.depth}x{self.length}", *(kind for kind, on in kinds.items() if on)]
        return ", ".join(said)

    def idle(self) -> frozenset[str]:
        off = {name for name in ("coupled", "per_class", "conditional") if not getattr(self, name)}
        about_text = {"init", "class_position", "per_class", "conditional"}
        return frozenset(off | about_text if self.towers == "image" else off)

    def build(self, backbone: Backbone, classes: int) -> Prompts:
        """The tokens, for a backbone and a number of training classes.

        Raises:
            UserError: If a prompted tower shows no blocks.
        """
        return Prompts(self, backbone, classes)


class Prompts(PartModule):
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

    Example:
        >>> from restore_vlm.backbone import load_backbone
        >>> config = PromptConfig(towers="both", coupled=True, depth=3, length=2)
        >>> prompts = Prompts(config, load_backbone("tiny"), classes=5)
        >>> text, image = prompts()
        >>> [len(layers) for layers in (text, image)]
        [3, 3]
        >>> text[1].shape, image[1].shape  # (n, width) of each tower
        (torch.Size([2, 96]), torch.Size([2, 192]))
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

    def encode_text(
        self, tower: Any, classes: ClassTokens, tokens: Sequence[Tensor], states: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """A text tower's output with the tokens in: where they go in is this part's to say.

        Args:
            tower: A text tower that shows its blocks, see :class:`restore_vlm.backbone.tower.Tower`.
            classes: From :meth:`tokenize`.
            tokens: From :meth:`text_for`.
            states: Whether to return the embedding after every block.

        Returns:
            (c, d) or (b, c, d) unnormalised features, and the states.
        """
        return tower(classes, tokens, states)

    def encode_image(
        self, tower: Any, images: Tensor, tokens: Sequence[Tensor], states: bool
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """An image tower's output with the tokens in.

        Args:
            tower: An image tower that shows its blocks.
            images: (b, 3, h, w), normalised.
            tokens: The image tokens of :meth:`forward`.
            states: Whether to return the embedding after every block.

        Returns:
            (b, d) unnormalised features, the states, and what else heads or losses read, by name.
        """
        return *tower(images, tokens, states), {}
