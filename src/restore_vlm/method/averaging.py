"""The averaging part: one set of weights out of those of every epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from restore_vlm.method.config import AveragingConfig


class GaussianAverage:
    """Gaussian-weighted average of the weights at the end of every epoch (arXiv 2307.06948).

    Epoch e of N, counted from 1, weighs exp(-(e - mean)^2 / (2 std^2)), normalised over 1..N.

    Args:
        config: Mean and std, in epochs.
        epochs: N.
    """

    def __init__(self, config: AveragingConfig, epochs: int) -> None:
        weights = [math.exp(-((e - config.mean) ** 2) / (2 * config.std**2)) for e in range(1, epochs + 1)]
        total = sum(weights)
        # Every epoch too far from the mean to have any weight leaves the last one.
        self.weights = [w / total for w in weights] if total else [0.0] * (epochs - 1) + [1.0]
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, epoch: int, weights: dict[str, Tensor]) -> None:
        """Adds the weights at the end of ``epoch``, counted from 0."""
        share = self.weights[epoch]
        for name, value in weights.items():
            self.state[name] = self.state.get(name, torch.zeros_like(value)) + share * value
