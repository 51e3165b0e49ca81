"""The averaging part: one set of weights out of several.

Both kinds have ``add(epoch, weights)``, called at the end of every epoch counted from 0, and
``state``, which after the last epoch holds the weights to keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

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
    def add(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Adds the weights at the end of ``epoch``."""
        share = self.weights[epoch]
        for name, value in weights.items():
            self.state[name] = self.state.get(name, torch.zeros_like(value)) + share * value


class Interpolation:
    """theta_0 + alpha (theta_1 - theta_0), before and after training (WiSE-FT, arXiv 2109.01903).

    Args:
        config: alpha.
        epochs: Of the run.
        initial: theta_0; copied. It is a function of the seed, so a resumed run has it again.
    """

    def __init__(self, config: AveragingConfig, epochs: int, initial: Mapping[str, Tensor]) -> None:
        self.alpha, self.epochs = config.alpha, epochs
        self.initial = {name: value.detach().clone() for name, value in initial.items()}
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Takes the weights at the end of ``epoch``, if it is the last."""
        if epoch == self.epochs - 1:
            self.state = {name: self.initial[name].lerp(value, self.alpha) for name, value in weights.items()}


def make_average(
    config: AveragingConfig | None, epochs: int, initial: Mapping[str, Tensor]
) -> GaussianAverage | Interpolation | None:
    """The averaging a method asks for.

    Args:
        config: None for none.
        epochs: Of the run.
        initial: The learned tensors by name, before the first step.
    """
    if config is None:
        return None
    if config.kind == "gaussian":
        return GaussianAverage(config, epochs)
    return Interpolation(config, epochs, initial)
