"""The assembled model: a frozen backbone with a method's learned parts in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.backbone.class_prompts import ClassTokens
from restore_vlm.method.config import MethodConfig
from restore_vlm.method.hand_written import HandWritten, encode_templates
from restore_vlm.method.heads import Heads
from restore_vlm.method.prompts import Prompts
from restore_vlm.method.shift import prompt_norms
from restore_vlm.method.surgery import Surgery
from restore_vlm.method.templates import templates
from restore_vlm.method.weights import Weights


class Encoded:
    """What one forward pass gives: unit features, logits and, if asked for, per-block states.

    Attributes:
        logits: (b, c).
        image_features: (b, d), unit length.
        text_features: (c, d), unit length; (b, c, d) where they depend on the image.
        image_states: Per block, (b, width) at the class token.
        text_states: Per block, (c, width) at end-of-text.
        text_prompts: Per layer, (n, width); layer 0 (training classes, n, width) if per class.
        image_prompts: Per layer, (n, width).
        frozen: What a training step needs of the frozen model: features, states, zero-shot logits.
    """

    logits: Tensor
    image_features: Tensor
    text_features: Tensor
    image_states: list[Tensor]
    text_states: list[Tensor]
    text_prompts: list[Tensor]
    image_prompts: list[Tensor]
    frozen: Encoded


class PromptedModel(nn.Module):
    """A backbone with a method's learned parts in it, for any list of class names.

    Args:
        backbone: Frozen; never changed, so that the same one can serve several models.
        config: The method's parts.
        classnames: The classes of training; :meth:`set_classes` asks about others later.
    """

    def __init__(self, backbone: Backbone, config: MethodConfig, classnames: Sequence[str]) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self.known: dict[str, list[int]] = {}
        for row, name in enumerate(classnames):
            self.known.setdefault(name, []).append(row)
        self.prompts = Prompts(config.prompts, backbone, len(classnames)) if config.prompts else None
        self.weights = Weights(config.weights, backbone)
        ratios = config.surgery
        self.text_surgery = Surgery(backbone.dim, ratios.text_ratio) if ratios else None
        self.image_surgery = Surgery(backbone.dim, ratios.vision_ratio) if ratios else None
        self.heads = Heads(config.heads, backbone.dim, len(classnames))
        self.set_classes(classnames)

    def _apply(self, *args: Any, **kwargs: Any) -> PromptedModel:
        """Moving the model moves its tokenised classes too."""
        super()._apply(*args, **kwargs)
        self.set_classes(self.classnames)
        return self

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Replaces the classes; underscores become spaces. Any names, seen in training or not.

        The k-th class of one name is the k-th of that name in training.
        """
        self.classnames = list(classnames)
        self.classes = self.tokenize(classnames)
        left = {name: iter(rows) for name, rows in self.known.items()}
        rows = [next(left[n], self.known[n][-1]) if n in left else -1 for n in classnames]
        self.rows = torch.tensor(rows, device=self.backbone.device)
        self._hand_written: HandWritten | None = None

    def asked_in(self, **words: Any) -> PromptedModel:
        """The same weights asked in other hand-written prompts; this model stays as it is.

        Args:
            **words: ``template`` and ``ensemble``, as in the method's configuration.
        """
        other = copy.copy(self)
        other.config = self.config.model_copy(update=words)
        other.set_classes(self.classnames)
        return other

    def tokenize(self, classnames: Sequence[str]) -> ClassTokens:
        """The classes in the learned template."""
        if self.prompts is None or self.prompts.config.towers == "image":
            return self.frozen_classes(classnames)
        return self.prompts.tokenize(self.backbone, [name.replace("_", " ") for name in classnames])

    def frozen_classes(self, classnames: Sequence[str], template: str | None = None) -> ClassTokens:
        """The classes in a hand-written template (the method's), as the frozen model would be asked."""
        names = [name.replace("_", " ") for name in classnames]
        return self.backbone.text.tokenize([(template or self.config.template).format(n) for n in names])

    def hand_written(self) -> HandWritten:
        """The frozen features of the classes in the method's template or templates; computed once."""
        if self._hand_written is None:
            chosen = templates(self.config.ensemble) or (self.config.template,)
            prompts = (self.frozen_classes(self.classnames, template) for template in chosen)
            self._hand_written = encode_templates(self.backbone.text, prompts)
        return self._hand_written

    def trainable(self) -> dict[str, nn.Parameter]:
        """Everything that is learned by gradient, by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def adapter_state(self) -> dict[str, Tensor]:
        """Everything that training changes: learned tensors, surgery ratios, what heads were fitted to."""
        state = {n: p.detach() for n, p in self.trainable().items()}
        fitted = {n: b for n, b in self.named_buffers() if n.startswith("heads.")}
        return state | fitted | {n: b for n, b in self.named_buffers() if n.endswith("surgery.ratio")}

    def prompt_tokens(self) -> tuple[list[Tensor], list[Tensor]]:
        """Text and image prompts per layer; empty lists where a tower has none."""
        return self.prompts() if self.prompts is not None else ([], [])

    def grow_surgery(self) -> None:
        """The one dynamic update of the surgery ratios."""
        config = self.config.surgery
        if self.text_surgery is None or self.image_surgery is None or config is None:
            return
        text, image = self.prompt_tokens()
        self.text_surgery.grow(config.text_growth, prompt_norms(text))
        self.image_surgery.grow(config.vision_growth, prompt_norms(image))

    def encode_text(
        self,
        prompts: Sequence[Tensor] | None = None,
        states: bool = False,
        image_features: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """(c, d) unit features of the classes, and per-block states if asked for.

        Conditional prompts need the (b, d) unit ``image_features`` and give (b, c, d). ``prompts``
        are what :meth:`prompt_tokens` gives, the default.
        """
        if prompts is None:
            prompts = self.prompt_tokens()[0]
        if prompts and self.prompts is not None:
            prompts = self.prompts.text_for(prompts, self.rows, image_features)
        learned = self.weights.text
        if prompts or states or learned is not None:
            features, seen = (learned or self.backbone.text)(self.classes, prompts, states)
        else:
            words = self.hand_written()
            features, seen = words.mean if self.config.raw_ensemble else words.ensemble, []
        return self._unit(self.heads.text(features.float(), self.rows), self.text_surgery), seen

    def encode_image(
        self, images: Tensor, prompts: Sequence[Tensor] | None = None, states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """(b, d) unit features of normalised images, and per-block states if asked for."""
        if prompts is None:
            prompts = self.prompt_tokens()[1]
        learned = self.weights.image
        with nullcontext() if prompts or learned is not None else torch.no_grad():
            features, seen = (learned or self.backbone.image)(images, prompts, states)
        return self._unit(self.heads.image(features.float()), self.image_surgery), seen

    def _unit(self, features: Tensor, surgery: Surgery | None) -> Tensor:
        return F.normalize(features if surgery is None else surgery(features).float(), dim=-1)

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(b, d) and (c, d) or (b, c, d) unit features -> (b, c)."""
        return self.heads.logits(
            self.backbone.logits(image_features, text_features), image_features, self.rows
        )

    def encode(self, images: Tensor, states: bool = False) -> Encoded:
        """One forward pass of a training step."""
        out = Encoded()
        out.text_prompts, out.image_prompts = self.prompt_tokens()
        out.image_features, out.image_states = self.encode_image(images, out.image_prompts, states)
        out.text_features, out.text_states = self.encode_text(out.text_prompts, states, out.image_features)
        out.logits = self.logits(out.image_features, out.text_features)
        return out

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Images (b, 3, h, w) -> logits (b, c), what does not depend on the images computed once."""
        text_prompts, image_prompts = self.prompt_tokens()
        fixed = None if self.config.conditional else self.encode_text(text_prompts)[0]

        def score(images: Tensor) -> Tensor:
            features = self.encode_image(images, image_prompts)[0]
            text = fixed
            if text is None:
                text = self.encode_text(text_prompts, image_features=features)[0]
            return self.logits(features, text).float()

        return score

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) normalised images -> (b, c) logits."""
        return self.encode(images).logits
