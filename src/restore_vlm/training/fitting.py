"""What heads need of the training images before, or instead of, training, and of validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from restore_vlm.backbone import Backbone
from restore_vlm.data import Images, Item, loader, test_transform, train_transform
from restore_vlm.method import Encoded, PromptedModel
from restore_vlm.method.heads import Choice, Views

BATCH = 64


def fit_heads(
    model: PromptedModel,
    items: Sequence[Item],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    validation: Sequence[Item] = (),
) -> Choice | None:
    """Fits the heads of a model that are made of the training images, such as a cache or a linear probe.

    They see the frozen backbone's features, in fp32. Where a head asks for several views of an image
    their features are added up, unnormalised until then as in Tip-Adapter's released code; what is drawn
    depends on the seed alone.

    Args:
        model: Holding the training classes.
        items: The training images.
        seed: Of the crops.
        progress: Called with the images encoded so far and how many there are, views included.
        validation: Images to choose settings on, for heads that do.

    Returns:
        What was chosen, if anything was.
    """
    fitted = [(head, head.views) for head in model.heads if head.views]
    choosing = [bool(validation) and head.validates for head, _ in fitted]
    done, total = 0, len(items) * sum(views.count for _, views in fitted) + len(validation) * sum(choosing)
    labels, wanted = (torch.tensor([item.label for item in some]) for some in (items, validation))
    choice = None

    def moved(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    for (head, views), chooses in zip(fitted, choosing, strict=True):
        features = _features(model.backbone, items, views, seed, moved)
        if chooses:
            seen = _features(model.backbone, validation, Views(), seed, moved)
            choice = head.fit(features, labels, (seen, wanted))
        else:
            head.fit(features, labels)
    return choice


@torch.inference_mode()
def tune_heads(model: PromptedModel, validation: Sequence[Item]) -> Choice | None:
    """Chooses settings of a finished model's heads on validation images, for heads that do.

    Args:
        model: Holding the training classes.
        validation: Images of them.

    Returns:
        What was chosen, if anything was.
    """
    choice = None
    for head in model.heads if validation else ():
        if head.tunes:
            out, labels = _encoded(model.eval(), validation)
            model.heads.logits(out, model.rows, without=head)
            choice = head.tune(out, model.rows, labels)
    return choice


def _encoded(model: PromptedModel, items: Sequence[Item]) -> tuple[Encoded, Tensor]:
    """Images compared with classes by the towers alone, and their labels."""
    images, device = Images(items, test_transform(model.backbone.preprocess)), model.backbone.device
    parts = [model.encode(batch.to(device)) for batch, _ in loader(images, BATCH)]
    logits = [model.backbone.logits(part.image_features, part.text_features) for part in parts]
    out = Encoded(
        logits=torch.cat(logits).float(), image_features=torch.cat([part.image_features for part in parts])
    )
    return out, torch.tensor([item.label for item in items], device=device)


def _features(
    backbone: Backbone, items: Sequence[Item], views: Views, seed: int, moved: Callable[[int], None]
) -> Tensor:
    """(m, d) unnormalised features of the frozen image tower, summed over views."""
    crops = train_transform(backbone.preprocess, views.crop) if views.crop else None
    images = Images(items, crops or test_transform(backbone.preprocess), seed)
    images.set_epoch(0)
    features = frozen_features(backbone, images, moved)
    for view in range(1, views.count):
        images.set_epoch(view)
        features += frozen_features(backbone, images, moved)
    return features


def frozen_features(
    backbone: Backbone, images: Images, moved: Callable[[int], None] = lambda count: None
) -> Tensor:
    """(n, d) unnormalised features of the frozen image tower, in fp32 on the backbone's device.

    Args:
        backbone: Whose image tower.
        images: To encode.
        moved: Called with the number of images of every batch.
    """
    parts = []
    for batch, _ in loader(images, BATCH):
        parts.append(_encode(backbone, batch))
        moved(len(batch))
    return torch.cat(parts)


@torch.no_grad()
def _encode(backbone: Backbone, images: Tensor) -> Tensor:
    """(b, 3, h, w) -> (b, d) unnormalised features in fp32."""
    device = backbone.device
    with torch.autocast(device.type, enabled=False):
        return backbone.image(images.to(device))[0].float()
