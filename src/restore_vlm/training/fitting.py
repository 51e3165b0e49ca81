"""What heads need of the training images before, or instead of, training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from restore_vlm.backbone import Backbone
from restore_vlm.data import Images, Item, loader, test_transform, train_transform
from restore_vlm.data.loading import Transform
from restore_vlm.method import PromptedModel

BATCH = 64


def fit_heads(
    model: PromptedModel,
    items: Sequence[Item],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Fits the cache and the linear probe of a model, where it has them, to the training images.

    Both see the frozen backbone's features, in fp32. A key of the cache is the mean over ``views``
    random crops of an image, unnormalised until then as in Tip-Adapter's released code; what is drawn
    depends on the seed alone.

    Args:
        model: Holding the training classes.
        items: The training images.
        seed: Of the crops.
        progress: Called with the images encoded so far and how many there are, views included.
    """
    heads, config = model.heads, model.config.heads
    views = config.cache.views if config.cache else 0
    total, done = len(items) * (views + bool(heads.probe)), 0
    labels = torch.tensor([item.label for item in items])

    def features(transform: Transform, view: int = 0) -> Tensor:
        nonlocal done
        images, parts = Images(items, transform, seed), []
        images.set_epoch(view)
        for batch, _ in loader(images, BATCH):
            parts.append(_encode(model.backbone, batch))
            done += len(batch)
            progress(done, total)
        return torch.cat(parts)

    if heads.cache is not None and config.cache is not None:
        transform = train_transform(model.backbone.preprocess, config.cache.crop)
        keys = features(transform)
        for view in range(1, views):
            keys += features(transform, view)
        heads.cache.fit(keys, labels)
    if heads.probe is not None:
        heads.probe.fit(features(test_transform(model.backbone.preprocess)), labels)


@torch.no_grad()
def _encode(backbone: Backbone, images: Tensor) -> Tensor:
    """(b, 3, h, w) -> (b, d) unnormalised features in fp32."""
    device = backbone.device
    with torch.autocast(device.type, enabled=False):
        return backbone.image(images.to(device))[0].float()
