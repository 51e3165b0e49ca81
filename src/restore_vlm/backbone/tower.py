"""What every tower offers, and the towers that show no blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from restore_vlm.backbone.class_prompts import ClassTokens, Tokenizer, encode

AT_ONCE = 128
"""Classes that a text tower without blocks encodes at once."""
OUTSIDE = ("visual", "logit_scale", "logit_bias", "text_decoder")
"""What an open_clip model has beside its text tower."""


class ClosedError(Exception):
    """A tower shows no blocks; the message says what it is instead, as a clause: "is a ModifiedResNet"."""


class Tower(nn.Module):
    """A frozen tower; what parts of a method can enter are its blocks.

    Attributes:
        closed: Why it shows no blocks, as a clause ("is a ModifiedResNet"); empty if it shows them.
        depth: Number of blocks, 0 if it shows none.
        width: Of the tokens between blocks, 0 if it shows none.
    """

    closed: str = ""
    depth: int = 0
    width: int = 0

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class OpaqueImageTower(Tower):
    """Any image tower of open_clip, computed as open_clip does.

    Args:
        visual: ``model.visual`` of an open_clip model.
        closed: Why it shows no blocks.
    """

    visual: Any

    def __init__(self, visual: Any, closed: str) -> None:
        super().__init__()
        self.visual, self.closed = visual, closed

    def forward(
        self, images: Tensor, prompts: Sequence[Tensor] = (), states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """(b, 3, h, w) normalised images -> (b, d) unnormalised features, and no states.

        ``prompts`` must be empty: :meth:`Backbone.entered` has refused them.
        """
        assert not prompts, self.closed
        features = self.visual(images)
        return features[0] if isinstance(features, tuple) else features, []


class OpaqueTextTower(Tower):
    """Any text tower of open_clip, computed as open_clip does.

    Args:
        model: An open_clip model; its ``encode_text`` is called.
        tokenizer: Maps a list of strings to (c, t) ids.
        closed: Why it shows no blocks.
    """

    text: Any

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, closed: str) -> None:
        super().__init__()
        self.text = copy.copy(model)
        for kind in ("_modules", "_parameters"):
            parts = {name: part for name, part in vars(model)[kind].items() if name not in OUTSIDE}
            setattr(self.text, kind, parts)
        self.tokenizer, self.closed = tokenizer, closed

    @cached_property
    def dim(self) -> int:
        """Dimension of the features, which no common attribute tells."""
        with torch.no_grad():
            return self(self.tokenize(["a"]))[0].shape[1]

    def tokenize(self, prompts: Sequence[str]) -> ClassTokens:
        """One hand-written prompt per class as the tower reads it.

        Raises:
            UserError: If there is no prompt, or one that leaves no room for another token.
        """
        return ClassTokens(encode(self.tokenizer, prompts).to(self.device))

    def forward(
        self, classes: ClassTokens, prompts: Sequence[Tensor] = (), states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """(c, d) unnormalised features of classes, and no states.

        ``prompts`` must be empty: :meth:`Backbone.entered` has refused them.
        """
        assert not prompts, self.closed
        parts = [self.text.encode_text(ids, normalize=False) for ids in classes.ids.split(AT_ONCE)]
        return torch.cat(parts), []
