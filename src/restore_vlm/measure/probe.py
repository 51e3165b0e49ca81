"""Feature shift on a fixed few images: of a finished run, of every run of a grid, or while training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from restore_vlm.measure.shift import Embeddings, Measurement, frozen_embeddings, measure_model
from torch import Tensor

from restore_vlm.backbone import Backbone
from restore_vlm.data import Images, Item, test_transform
from restore_vlm.method import PromptedModel

BATCH = 64


@dataclass
class Probe:
    """Images and classes to measure on.

    Attributes:
        batches: (b, 3, h, w) each, normalised.
        classes: Names.
        labels: Of every image, an index of ``classes``.
    """

    batches: list[Tensor]
    classes: list[str]
    labels: list[int]

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        classes: Sequence[str],
        backbone: Backbone,
        images: int = 64,
        most: int = 50,
    ) -> Probe:
        """Draws up to ``images`` of the items of up to ``most`` classes, both evenly over their lists."""
        wanted = {label: place for place, label in enumerate(_spread(len(classes), most))}
        mine = [item for item in items if item.label in wanted]
        chosen = [mine[i] for i in _spread(len(mine), images)]
        loaded = Images(chosen, test_transform(backbone.preprocess))
        batches = list(torch.stack([loaded[i][0] for i in range(len(chosen))]).split(BATCH))
        return cls(batches, [classes[label] for label in wanted], [wanted[i.label] for i in chosen])

    def frozen(self, model: PromptedModel) -> Embeddings:
        """What the model's backbone makes of them without anything learned."""
        return frozen_embeddings(model, self.batches, self.classes)

    def measure(self, model: PromptedModel, frozen: Embeddings | None = None) -> Measurement:
        """See :func:`restore_vlm.shift.measure`; leaves the model in its mode of evaluation."""
        return measure_model(model.eval(), self.batches, self.classes, self.labels, frozen)

    def compare(self, models: Iterable[PromptedModel]) -> Iterator[Measurement]:
        """Measures models of one backbone; those of one template share one frozen pass."""
        frozen: dict[str, Embeddings] = {}
        for model in models:
            template = model.config.template
            if template not in frozen:
                frozen[template] = self.frozen(model)
            yield self.measure(model, frozen[template])


def _spread(total: int, most: int) -> list[int]:
    """At most ``most`` of the places 0..total-1, evenly."""
    return [i * total // min(total, most) for i in range(min(total, most))]
