"""The gradient part: how the gradients of a step come from its loss terms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from restore_vlm.method.losses import Losses
from restore_vlm.method.model import Encoded, PromptedModel


def project_out(gradient: Tensor, guide: Tensor) -> Tensor:
    """Removes from ``gradient`` its component along ``guide`` where the two oppose each other.

    ProGrad (arXiv 2205.14865), lambda 1; tensors of one shape, any.
    """
    along = (gradient * guide).sum()
    if along >= 0:
        return gradient
    return gradient - along / guide.square().sum() * guide


class ProGrad:
    """The loss gradient, kept from working against the zero-shot model.

    Per learned tensor, the guide is the gradient of KL(zero-shot || tuned), temperature 1.

    Args:
        model: At initialisation, holding the training classes.
    """

    def __init__(self, model: PromptedModel) -> None:
        with torch.no_grad():
            text = model.backbone.text(model.frozen_classes(model.classnames))[0]
        self.text = F.normalize(text.float(), dim=-1)

    def backward(self, model: PromptedModel, images: Tensor, out: Encoded, loss: Tensor) -> None:
        """Fills the gradients of the learned tensors."""
        with torch.no_grad():
            frozen = F.normalize(model.backbone.image(images)[0].float(), dim=-1)
            target = model.backbone.logits(frozen, self.text).softmax(-1)
        divergence = F.kl_div(out.logits.log_softmax(-1), target, reduction="batchmean")
        learned = list(model.trainable().values())
        guides = torch.autograd.grad(divergence, learned, retain_graph=True, allow_unused=True)
        loss.backward()
        for parameter, guide in zip(learned, guides, strict=True):
            if guide is not None and parameter.grad is not None:
                parameter.grad = project_out(parameter.grad, guide)


class Gradient:
    """A method's gradient rule.

    Args:
        losses: The loss part.
        model: At initialisation.
    """

    def __init__(self, losses: Losses, model: PromptedModel) -> None:
        self.losses = losses
        self.prograd = ProGrad(model) if model.config.gradient == "prograd" else None

    def backward(
        self, model: PromptedModel, images: Tensor, labels: Tensor, scale: float = 1.0
    ) -> tuple[Encoded, dict[str, Tensor]]:
        """Runs one step's forward and backward pass; the gradients are times ``scale``."""
        out, terms = self.losses(model, images, labels)
        loss = torch.stack(list(terms.values())).sum() * scale
        if not loss.isfinite():
            return out, terms
        if self.prograd is None:
            loss.backward()
        else:
            self.prograd.backward(model, images, out, loss)
        return out, terms
