"""What heads need of the training images before, or instead of, training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from restore_vlm.backbone import Backbone
from restore_vlm.data import Images, Item, loader, test_transform, train_transform
from restore_vlm.data.loading import Transform
from restore_vlm.method import PromptedModel
from restore_vlm.method.heads import Choice

BATCH = 64


def fit_heads(
    model: PromptedModel,
    items: Sequence[Item],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    validation: Sequence[Item] = (),
) -> Choice | None:
    """Fits the cache and the linear probe of a model, where it has them, to the training images.

    Both see the frozen backbone's features, in fp32. A key of the cache is the mean over ``views``
    random crops of an image, unnormalised until then as in Tip-Adapter's released code; what is drawn
    depends on the seed alone.

    Args:
        model: Holding the training classes.
        items: The training images.
        seed: Of the crops.
        progress: Called with the images encoded so far and how many there are, views included.
        validation: Images to choose the probe's c on, where the method searches it.

    Returns:
        The c that was chosen, if one was.
    """
    heads, config = model.heads, model.config.heads
    views = config.cache.views if config.cache else 0
    chosen_on = validation if config.linear_probe and config.linear_probe.search else ()
    total, done = len(items) * (views + bool(heads.probe)) + len(chosen_on), 0
    labels = torch.tensor([item.label for item in items])

    def moved(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    def features(transform: Transform, view: int = 0, of: Sequence[Item] = items) -> Tensor:
        images = Images(of, transform, seed)
        images.set_epoch(view)
        return frozen_features(model.backbone, images, moved)

    if heads.cache is not None and config.cache is not None:
        transform = train_transform(model.backbone.preprocess, config.cache.crop)
        keys = features(transform)
        for view in range(1, views):
            keys += features(transform, view)
        heads.cache.fit(keys, labels)
    if heads.probe is None:
        return None
    plain = test_transform(model.backbone.preprocess)
    if not chosen_on:
        heads.probe.fit(features(plain), labels)
        return None
    wanted = torch.tensor([item.label for item in chosen_on])
    return heads.probe.choose(features(plain), labels, features(plain, of=chosen_on), wanted)


@torch.inference_mode()
def choose_cache(model: PromptedModel, validation: Sequence[Item]) -> Choice | None:
    """Chooses alpha and beta of a finished model's cache on validation images, where it searches them.

    As in Tip-Adapter's released code: after training, with the keys that were learned.

    Returns:
        What was chosen, if anything was.
    """
    cache, config = model.heads.cache, model.config.heads.cache
    if cache is None or config is None or config.search is None or not validation:
        return None
    images = Images(validation, test_transform(model.backbone.preprocess))
    labels = torch.tensor([item.label for item in validation], device=model.backbone.device)
    alone, model.heads.cache = model.heads.cache, None
    try:
        encoded = [model.eval().encode(batch.to(model.backbone.device)) for batch, _ in loader(images, BATCH)]
    finally:
        model.heads.cache = alone
    logits, features = (
        torch.cat([getattr(e, name).float() for e in encoded]) for name in ("logits", "image_features")
    )
    return cache.choose(logits, features, model.rows, labels, config.search)


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
