"""The training loss of a method: its terms, and the frozen model that they compare with."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore_vlm.method.config import MethodConfig
from restore_vlm.method.encoded import Encoded
from restore_vlm.method.losses import LossConfig, Mean, alone
from restore_vlm.method.model import PromptedModel


class Frozen:
    """The frozen model beside the tuned one, asked no more than it must be.

    Classes are encoded once, images once per step however many parts compare with them, and not at
    all where the method leaves the image tower as it is.

    Args:
        model: Holding the training classes.
        needs: What is compared with: ``text``, ``image``, ``states``.
    """

    def __init__(self, model: PromptedModel, needs: Collection[str]) -> None:
        self.needs, self.backbone = needs, model.backbone
        self.untouched = not model.config.learns("image")
        self.text_features, self.text_states = torch.empty(0), list[Tensor]()
        if "text" in needs:
            self.text_features = F.normalize(model.hand_written().mean, dim=-1)
        if "states" in needs:
            with torch.no_grad():
                classes = model.frozen_classes(model.classnames)
                self.text_states = model.backbone.text(classes, states=True)[1]

    @torch.no_grad()
    def __call__(self, images: Tensor, tuned: Encoded) -> Encoded:
        """What is needed of the frozen model for a step's images."""
        out = Encoded()
        out.text_features, out.text_states = self.text_features, self.text_states
        if self.untouched:
            out.image_features = tuned.image_features.detach()
        elif "image" in self.needs or "states" in self.needs:
            features, out.image_states = self.backbone.image(images, states="states" in self.needs)
            out.image_features = F.normalize(features.float(), dim=-1)
        if "text" in self.needs and "image" in self.needs:
            out.logits = self.backbone.logits(out.image_features, out.text_features)
        return out


class Losses(nn.Module):
    """The training loss of a method as a dict of named, weighted terms.

    Args:
        config: The method.
        model: At initialisation, holding the training classes.
        mean: Over the processes that share a batch.
    """

    def __init__(self, config: MethodConfig, model: PromptedModel, mean: Mean = alone) -> None:
        super().__init__()
        self.mean = mean
        parts = {name: part for name, part in config.losses.parts().items() if isinstance(part, LossConfig)}
        self.weights = {name: part.weight for name, part in parts.items()}
        self.terms = nn.ModuleDict({name: part.build(model, mean) for name, part in parts.items()})
        self.needs_states = "states" in config.compares
        self.frozen = Frozen(model, config.compares)

    def forward(
        self, model: PromptedModel, images: Tensor, labels: Tensor
    ) -> tuple[Encoded, dict[str, Tensor]]:
        """Runs the model and returns its output with every term, weighted, by name."""
        out = model.encode(images, self.needs_states)
        out.frozen = self.frozen(images, out)
        terms = [self.weights[name] * term(out, labels) for name, term in self.terms.items()]
        return out, dict(zip(self.terms, self.mean(terms), strict=True))
