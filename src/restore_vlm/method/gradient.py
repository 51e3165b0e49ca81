"""The gradient part: how the gradients of a step come from its loss terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from restore_vlm.method.encoded import Encoded
from restore_vlm.method.losses import divergence
from restore_vlm.method.model import PromptedModel
from restore_vlm.method.objective import Losses


def project_out(gradient: Tensor, guide: Tensor) -> Tensor:
    """Removes from ``gradient`` its component along ``guide`` where the two oppose each other.

    g - (g . h / h . h) h where g . h < 0, for a gradient g and a guide h of one shape, any (ProGrad,
    arXiv 2205.14865, with its lambda 1).

    Example:
        >>> project_out(torch.tensor([-2.0, 3.0]), torch.tensor([1.0, 0.0]))
        tensor([0., 3.])
    """
    along = (gradient * guide).sum()
    if along >= 0:
        return gradient
    return gradient - along / guide.square().sum() * guide


class Gradient:
    """A method's gradient rule.

    ``plain`` is the gradient of the summed terms. ``prograd`` keeps it from working against the
    zero-shot model: per learned tensor, :func:`project_out` with the gradient of KL(zero-shot || tuned),
    temperature 1, as guide.

    Args:
        losses: The loss part.
        model: At initialisation.
    """

    def __init__(self, losses: Losses, model: PromptedModel) -> None:
        self.losses = losses
        self.guided = model.config.gradient == "prograd"

    def backward(
        self, model: PromptedModel, images: Tensor, labels: Tensor, scale: float = 1.0
    ) -> tuple[Encoded, dict[str, Tensor]]:
        """Runs one step's forward and backward pass; the gradients are times ``scale``.

        Where processes share a batch, terms and gradients are those of the whole batch.
        """
        out, terms = self.losses(model, images, labels)
        loss = torch.stack(list(terms.values())).sum() * scale
        if not loss.isfinite():
            return out, terms
        learned = list(model.trainable().values())
        guides: Sequence[Tensor | None] = [None] * len(learned)
        if self.guided:
            guide = divergence(out.logits, out.frozen.logits) * (scale / len(out.logits))
            guides = torch.autograd.grad(guide, learned, retain_graph=True, allow_unused=True)
        loss.backward()
        self._combine(learned, guides)
        return out, terms

    @torch.no_grad()
    def _combine(self, learned: Sequence[nn.Parameter], guides: Sequence[Tensor | None]) -> None:
        """Averages gradients and guides over the processes, then projects."""
        pairs = [(p, p.grad, guide) for p, guide in zip(learned, guides, strict=True) if p.grad is not None]
        mine = [t for _, *both in pairs for t in both if t is not None]
        shared = iter(self.losses.mean(mine))
        for parameter, _, guide in pairs:
            gradient = next(shared)
            parameter.grad = gradient if guide is None else project_out(gradient, next(shared))
