"""Hand-written prompts: what a frozen text tower is asked about a class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restore_vlm.backbone.class_prompts import ClassTokens
from restore_vlm.backbone.tower import Tower


@dataclass
class HandWritten:
    """The features of classes in hand-written prompts, for one template both the same.

    Attributes:
        mean: (c, d) mean over the templates of the unnormalised features: what PromptSRC anchors to and
            TaskRes scores by (arXiv 2211.10277).
        ensemble: (c, d) mean over the templates of the unit features, what CLIP scores by (arXiv
            2103.00020), at the templates' mean norm: surgery and heads expect features of that size.
    """

    mean: Tensor
    ensemble: Tensor


def encode_templates(tower: Tower, prompts: Iterable[ClassTokens]) -> HandWritten:
    """Encodes classes in one template after the other: memory does not grow with their number.

    Args:
        tower: Frozen.
        prompts: The tokenised classes, once per template.
    """
    mean: Tensor | float = 0.0
    direction, norm, count = mean, mean, 0
    device = tower.device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        for classes in prompts:
            features, count = tower(classes)[0].float(), count + 1
            mean = mean + features
            direction = direction + F.normalize(features, dim=-1)
            norm = norm + features.norm(dim=-1, keepdim=True)
        assert isinstance(mean, Tensor) and isinstance(direction, Tensor)
        if count == 1:
            return HandWritten(mean, mean)
        return HandWritten(mean / count, F.normalize(direction, dim=-1) * norm / count)
