"""Testing a model on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from restore_vlm.data import Images, Item, loader, test_transform
from restore_vlm.evaluation.metrics import (
    Bin,
    expected_calibration_error,
    per_class_accuracy,
    reliability,
    true_class,
    wilson_interval,
    worst_confusions,
)
from restore_vlm.method import PromptedModel
from restore_vlm.runtime.precision import autocast
from restore_vlm.runtime.processes import join

BATCH = 100


@dataclass
class Evaluation:
    """What a test found.

    Attributes:
        accuracy: Share of images whose most probable class is theirs.
        interval: Its 95 % Wilson interval.
        images: Number of images.
        classes: Class names.
        per_class: Accuracy of every class, by name; None without images.
        confusions: The most frequent mistakes.
        calibration_error: Expected calibration error, 15 bins.
        reliability: Those bins that have images.
        true_probability: Mean probability of the images' own classes.
        true_histogram: Images by that probability, 20 bins over [0, 1].
    """

    accuracy: float
    interval: tuple[float, float]
    images: int
    classes: list[str]
    per_class: dict[str, float | None]
    confusions: list[dict[str, Any]]
    calibration_error: float
    reliability: list[Bin]
    true_probability: float
    true_histogram: list[int]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def probabilities(
    model: PromptedModel,
    images: Images,
    precision: str = "fp32",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """(n, c) class probabilities of images; text features are computed once.

    Processes of one run take a share each and all get those of all images.
    """
    device, total = model.backbone.device, len(images)
    world = join(device)
    out = [torch.empty(0, len(model.classnames))]
    with autocast(precision, device):
        score = model.scorer()
        for batch, _ in loader(images, BATCH, range(world.rank, total, world.size)):
            out.append(score(batch.to(device)).softmax(-1).cpu())
            if progress:
                progress(min(total, world.size * sum(len(p) for p in out)))
    return world.gather(torch.cat(out), total)


def evaluate(
    model: PromptedModel,
    items: Sequence[Item],
    classes: Sequence[str],
    precision: str = "fp32",
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Tests a model on ``items``, telling ``classes`` apart.

    Args:
        model: Set to ``classes`` by this call.
        items: Labelled images, at least one; labels index ``classes``.
        classes: Names.
        precision: Of the forward pass.
        progress: Called with the number of images done.
    """
    model.set_classes(classes)
    images = Images(items, test_transform(model.backbone.preprocess))
    return summarise(
        probabilities(model, images, precision, progress), torch.tensor([i.label for i in items]), classes
    )


def summarise(probability: Tensor, labels: Tensor, classes: Sequence[str]) -> Evaluation:
    """(n, c) probabilities and (n,) labels -> the figures."""
    predicted = probability.argmax(-1)
    hits = int((predicted == labels).sum())
    bins = reliability(probability, labels)
    mean, histogram = true_class(probability, labels)
    return Evaluation(
        accuracy=hits / len(labels),
        interval=wilson_interval(hits, len(labels)),
        images=len(labels),
        classes=list(classes),
        per_class=dict(zip(classes, per_class_accuracy(predicted, labels, len(classes)), strict=True)),
        confusions=[
            {"true": classes[t], "predicted": classes[p], "count": n}
            for t, p, n in worst_confusions(predicted, labels)
        ],
        calibration_error=expected_calibration_error(bins),
        reliability=bins,
        true_probability=mean,
        true_histogram=histogram,
    )
