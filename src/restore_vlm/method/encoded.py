"""What a forward pass gives."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from torch import Tensor


class Encoded(SimpleNamespace):
    """What one forward pass gives: unit features, logits and, if asked for, per-block states.

    Attributes:
        logits: (b, c).
        image_features: (b, d), unit length.
        text_features: (c, d), unit length; (b, c, d) where they depend on the image.
        image_states: Per block, (b, width) at the class token.
        text_states: Per block, (c, width) at end-of-text.
        text_prompts: Per layer, (n, width); layer 0 (training classes, n, width) if per class.
        image_prompts: Per layer, (n, width).
        extra: What a part leaves for others by name, such as features of tokens of its own that a
            head scores, or a head's own logits for a loss.
        frozen: What a training step needs of the frozen model: features, states, zero-shot logits.
    """

    logits: Tensor
    image_features: Tensor
    text_features: Tensor
    image_states: list[Tensor]
    text_states: list[Tensor]
    text_prompts: Sequence[Tensor]
    image_prompts: Sequence[Tensor]
    extra: dict[str, Tensor]
    frozen: Encoded
