"""Heads: what happens to features and logits after the towers, one file for each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from restore_vlm.backbone import Backbone
from restore_vlm.method.encoded import Encoded
from restore_vlm.method.heads.cache import Cache, CacheConfig
from restore_vlm.method.heads.clip_adapter import ClipAdapter, ClipAdapterConfig
from restore_vlm.method.heads.head import Choice, Head, HeadConfig, Views
from restore_vlm.method.heads.linear_probe import LinearProbe, LinearProbeConfig
from restore_vlm.method.heads.task_residual import TaskResidual, TaskResidualConfig
from restore_vlm.method.part import Group

__all__ = [
    "Cache",
    "CacheConfig",
    "Choice",
    "ClipAdapter",
    "ClipAdapterConfig",
    "Head",
    "HeadConfig",
    "Heads",
    "HeadsConfig",
    "LinearProbe",
    "LinearProbeConfig",
    "TaskResidual",
    "TaskResidualConfig",
    "Views",
]


class HeadsConfig(Group):
    """What happens to features and logits after the towers, in this order."""

    clip_adapter: ClipAdapterConfig | None = None
    task_residual: TaskResidualConfig | None = None
    cache: CacheConfig | None = None
    linear_probe: LinearProbeConfig | None = None


class Heads(nn.Module):
    """The heads of a method, one after the other; each is an attribute called as its tensors are saved.

    ``rows`` maps the classes asked about to those of training: (c,), -1 for a class never seen.

    Args:
        config: Which heads.
        backbone: What they follow.
        classes: Number of training classes.
    """

    def __init__(self, config: HeadsConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.names: dict[str, str] = {}
        for key, part in config.parts().items():
            assert isinstance(part, HeadConfig)
            self.names[key] = part.saved_as or key
            self.add_module(self.names[key], part.build(backbone, classes))

    def take(self, choice: Choice) -> None:
        """Sets what another process has chosen."""
        for setting, value in choice.settings.items():
            _, key, name = setting.split(".")
            setattr(getattr(self, self.names[key]), name, value)

    def __iter__(self) -> Iterator[Head]:
        return iter(head for head in self.children() if isinstance(head, Head))

    def text(self, features: Tensor, rows: Tensor) -> Tensor:
        """(c, d) or (b, c, d) unnormalised -> the same."""
        for head in self:
            features = head.text(features, rows)
        return features

    def image(self, features: Tensor) -> Tensor:
        """(b, d) unnormalised -> the same."""
        for head in self:
            features = head.image(features)
        return features

    def logits(self, out: Encoded, rows: Tensor, without: Head | None = None) -> Tensor:
        """(b, c) logits out of those of the towers, ``out.logits``, and its unit features.

        Args:
            out: Its logits are replaced after each head.
            rows: Of its classes.
            without: A head that is left out.
        """
        with torch.autocast(out.logits.device.type, enabled=False):
            for head in self:
                if head is not without:
                    out.logits = head.logits(out, rows)
        return out.logits
