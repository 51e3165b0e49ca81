"""The mathematics of feature-shift consistency (arXiv 2403.06136): both measures, and the loss.

``prompt`` looks at the prompts alone: per layer 1..J-1, s = ||P^T P||_F over its own value at
initialisation. ``embedding`` is the definition: per block, the mean of
||h_prompted - h_frozen|| / ||h_frozen|| at the class token over images and at the end-of-text token
over classes.

The consistency loss is the sum over layers of (s_text - s_vision)^2, with two guards that leave
it as published for shifts up to 4 that differ by up to 1: see :func:`tempered` and :func:`consistency`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

KNEE = 4.0
"""The ``prompt`` measure enters the loss as it is up to this value, logarithmically beyond."""


def prompt_norm(prompt: Tensor) -> Tensor:
    """||P^T P||_F of (n, width) prompts, through the (n, n) Gram matrix that has the same norm."""
    with torch.autocast(prompt.device.type, enabled=False):
        prompt = prompt.float()
        return (prompt @ prompt.T).norm()


def prompt_norms(prompts: Sequence[Tensor]) -> Tensor:
    """The norms of layers 1..J-1, (J - 1,); layer 0 is the template's words and left out."""
    if len(prompts) < 2:
        return torch.zeros(0)
    return torch.stack([prompt_norm(p) for p in prompts[1:]])


def embedding_shift(prompted: Sequence[Tensor], frozen: Sequence[Tensor]) -> Tensor:
    """Mean relative shift per block, (blocks,), of (b, width) states with and without prompts."""
    return torch.stack(
        [
            ((p.float() - f.float()).norm(dim=-1) / f.float().norm(dim=-1)).mean()
            for p, f in zip(prompted, frozen, strict=True)
        ]
    )


def tempered(shift: Tensor) -> Tensor:
    """s up to the knee k, k (1 + log(s / k)) beyond: continuous with its derivative.

    The published ``prompt`` measure is quadratic in the prompt, so the loss is quartic in it and
    its gradient cubic: once a prompt has outgrown its small initial norm, one step too long
    makes the next one longer. With the logarithm the gradient falls as the prompt grows. Up to
    the knee (a prompt of twice its initial norm) nothing changes.
    """
    return torch.where(shift <= KNEE, shift, KNEE * (1 + (shift.clamp(min=KNEE) / KNEE).log()))


def consistency(text: Tensor, vision: Tensor) -> Tensor:
    """Sum over layers of (s_text - s_vision)^2, linear where the two are more than 1 apart.

    Towers of unequal depth are compared over their first layers.

    Args:
        text: (layers,) shift of the text tower.
        vision: (layers,) shift of the image tower.
    """
    layers = min(len(text), len(vision))
    return 2 * F.huber_loss(text[:layers], vision[:layers], reduction="sum", delta=1.0)
