"""How far what is tuned is from what is frozen."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distance(features: Tensor, frozen: Tensor, kind: str) -> Tensor:
    """Mean distance of (n, d) unit features from frozen ones: 1 - cosine, or ``l1`` per coordinate.

    Example:
        >>> features, frozen = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
        >>> distance(features, frozen, "cosine"), distance(features, frozen, "l1")
        (tensor(0.4000), tensor(0.6000))
    """
    if kind == "cosine":
        return 1 - (features * frozen).sum(-1).mean()
    return F.l1_loss(features, frozen)


def divergence(logits: Tensor, zero_shot: Tensor) -> Tensor:
    """KL(zero-shot || tuned) of (b, c) logits, summed over both dimensions.

    Example:
        >>> divergence(torch.zeros(1, 2), torch.tensor([[0.0, 100.0]]))  # log 2
        tensor(0.6931)
    """
    return F.kl_div(logits.log_softmax(-1), zero_shot.log_softmax(-1), reduction="sum", log_target=True)
