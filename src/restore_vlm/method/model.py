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
from restore_vlm.method.encoded import Encoded
from restore_vlm.method.hand_written import HandWritten, encode_templates
from restore_vlm.method.heads import Heads
from restore_vlm.method.part import PartModule
from restore_vlm.method.surgery import Surgery
from restore_vlm.method.templates import templates
from restore_vlm.method.weights import Weights


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
        self.prompts = config.prompting.build(backbone, len(classnames)) if config.prompting else None
        self.weights = Weights(config.weights, backbone)
        surgery = config.surgery.build(backbone.dim) if config.surgery else {}
        self.text_surgery, self.image_surgery = surgery.get("text"), surgery.get("image")
        self.heads = Heads(config.heads, backbone, len(classnames))
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
        if self.prompts is None or not self.prompts.config.learns("text"):
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
        """Everything that training changes: learned tensors and the parts' own buffers, by name."""
        state = {n: p.detach() for n, p in self.trainable().items()}
        for prefix, part in self.named_modules():
            if isinstance(part, PartModule):
                state |= {f"{prefix}.{n}": b for n, b in part.named_buffers(recurse=False)}
        return state

    def prompt_tokens(self) -> tuple[list[Tensor], list[Tensor]]:
        """Text and image prompts per layer; empty lists where a tower has none."""
        return self.prompts() if self.prompts is not None else ([], [])

    def end_epoch(self, epoch: int, epochs: int) -> None:
        """What its parts do at the end of an epoch.

        Args:
            epoch: Counted from 0.
            epochs: Number of epochs of the run.
        """
        text, image = self.prompt_tokens()
        for part in self.modules():
            if isinstance(part, PartModule):
                part.end_epoch(epoch, epochs, {"text": text, "image": image})

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
        learned = self.weights.text
        tower = learned or self.backbone.text
        if prompts and self.prompts is not None:
            prompts = self.prompts.text_for(prompts, self.rows, image_features)
            features, seen = self.prompts.encode_text(tower, self.classes, prompts, states)
        elif states or learned is not None:
            features, seen = tower(self.classes, (), states)
        else:
            words = self.hand_written()
            features, seen = words.mean if self.config.raw_ensemble else words.ensemble, []
        return self._unit(self.heads.text(features.float(), self.rows), self.text_surgery), seen

    def encode_image(
        self, images: Tensor, prompts: Sequence[Tensor] | None = None, states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """(b, d) unit features of normalised images, and per-block states if asked for."""
        out = self._see(images, prompts, states)
        return out.image_features, out.image_states

    def _see(self, images: Tensor, prompts: Sequence[Tensor] | None, states: bool = False) -> Encoded:
        """What is known of images before they are compared with classes."""
        out = Encoded(extra={})
        out.image_prompts = self.prompt_tokens()[1] if prompts is None else prompts
        learned = self.weights.image
        tower = learned or self.backbone.image
        with nullcontext() if out.image_prompts or learned is not None else torch.no_grad():
            if out.image_prompts and self.prompts is not None:
                features, out.image_states, out.extra = self.prompts.encode_image(
                    tower, images, out.image_prompts, states
                )
            else:
                features, out.image_states = tower(images, (), states)
        out.image_features = self._unit(self.heads.image(features.float()), self.image_surgery)
        return out

    def _unit(self, features: Tensor, surgery: Surgery | None) -> Tensor:
        return F.normalize(features if surgery is None else surgery(features).float(), dim=-1)

    def _compare(self, out: Encoded) -> Encoded:
        """The same with its logits, (b, c)."""
        out.logits = self.backbone.logits(out.image_features, out.text_features)
        self.heads.logits(out, self.rows)
        return out

    def encode(self, images: Tensor, states: bool = False) -> Encoded:
        """One forward pass of a training step."""
        text_prompts, image_prompts = self.prompt_tokens()
        out = self._see(images, image_prompts, states)
        out.text_prompts = text_prompts
        out.text_features, out.text_states = self.encode_text(text_prompts, states, out.image_features)
        return self._compare(out)

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Images (b, 3, h, w) -> logits (b, c), what does not depend on the images computed once."""
        text_prompts, image_prompts = self.prompt_tokens()
        fixed = None if self.config.conditional else self.encode_text(text_prompts)[0]

        def score(images: Tensor) -> Tensor:
            out = self._see(images, image_prompts)
            if fixed is None:
                out.text_features = self.encode_text(text_prompts, image_features=out.image_features)[0]
            else:
                out.text_features = fixed
            return self._compare(out).logits.float()

        return score

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) normalised images -> (b, c) logits."""
        return self.encode(images).logits
