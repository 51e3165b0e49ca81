"""The gradient part: how the gradients of a step come from its loss terms."""

from __future__ import annotations

import torch
from torch import Tensor

from restore_vlm.method.losses import Losses, divergence
from restore_vlm.method.model import Encoded, PromptedModel


def project_out(gradient: Tensor, guide: Tensor) -> Tensor:
    """Removes from ``gradient`` its component along ``guide`` where the two oppose each other.

    ProGrad (arXiv 2205.14865), lambda 1; tensors of one shape, any.
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
        """Runs one step's forward and backward pass; the gradients are times ``scale``."""
        out, terms = self.losses(model, images, labels)
        loss = torch.stack(list(terms.values())).sum() * scale
        if not loss.isfinite():
            return out, terms
        if not self.guided:
            loss.backward()
            return out, terms
        learned = list(model.trainable().values())
        guide = divergence(out.logits, out.frozen.logits) * (scale / len(out.logits))
        guides = torch.autograd.grad(guide, learned, retain_graph=True, allow_unused=True)
        loss.backward()
        for parameter, along in zip(learned, guides, strict=True):
            if along is not None and parameter.grad is not None:
                parameter.grad = project_out(parameter.grad, along)
        return out, terms
