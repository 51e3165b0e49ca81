"""Keeps the answers near those of the zero-shot model (PromptSRC)."""

from __future__ import annotations

from torch import Tensor

from restore_vlm.method.encoded import Encoded
from restore_vlm.method.losses.distances import divergence
from restore_vlm.method.losses.loss import Loss, LossConfig, Mean, Start, alone


class LogitAnchorConfig(LossConfig):
    """KL(zero-shot || tuned), summed and divided by the number of logits (PromptSRC, arXiv 2307.06948)."""

    @property
    def compares(self) -> frozenset[str]:
        return frozenset({"text", "image"})

    def build(self, model: Start, mean: Mean = alone) -> LogitAnchor:
        return LogitAnchor(self)


class LogitAnchor(Loss):
    """KL(zero-shot || tuned) of (b, c) logits, divided by their number b c (PromptSRC, arXiv 2307.06948).

    Example:
        >>> out = Encoded(logits=torch.zeros(1, 2), frozen=Encoded(logits=torch.tensor([[0.0, 100.0]])))
        >>> LogitAnchor(LogitAnchorConfig())(out, torch.tensor([1]))  # log 2 / 2
        tensor(0.3466)
    """

    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        return divergence(out.logits, out.frozen.logits) / out.logits.numel()
