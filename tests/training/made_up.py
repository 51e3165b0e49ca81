from __future__ import annotations

import torch
from torch import Tensor

from restore_vlm.data import Images


class MadeUp(Images):
    """Images of noise around a pattern per class, the same every epoch."""

    def __init__(self, count: int, classes: int, size: int = 32) -> None:
        super().__init__([], lambda image: torch.empty(0))
        random = torch.Generator().manual_seed(0)
        self.labels = [i % classes for i in range(count)]
        patterns = torch.randn(classes, 3, size, size, generator=random)
        self.pixels = patterns[self.labels] + torch.randn(count, 3, size, size, generator=random)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.pixels[i], self.labels[i]

    def fits(self) -> bool:
        return True
