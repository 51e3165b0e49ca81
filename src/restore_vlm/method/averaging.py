"""Averaging: one set of weights out of several.

Both kinds have ``add(epoch, weights)``, called at the end of every epoch counted from 0, and
``state``, which after the last epoch holds the weights to keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from restore_vlm.method.part import Composition, Part


class AveragingConfig(Part):
    """One set of weights out of several.

    Attributes:
        kind: ``gaussian``, a Gaussian-weighted average of the epochs' weights (PromptSRC, arXiv
            2307.06948), or ``interpolation``, a point between the weights before and after
            training (WiSE-FT, arXiv 2109.01903).
        mean: Epoch of the largest weight, counted from 1 (gaussian).
        std: Its spread in epochs (gaussian).
        alpha: Share of the trained weights (interpolation).
    """

    kind: Literal["gaussian", "interpolation"] = "gaussian"
    mean: float = 15.0
    std: Annotated[float, Field(gt=0)] = 1.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5

    def conflicts(self, method: Composition) -> Iterable[str]:
        if not method.trainable:
            yield "there are no learned weights to average"

    def describe(self) -> str:
        return "Gaussian average" if self.kind == "gaussian" else "interpolation"

    def idle(self) -> frozenset[str]:
        return frozenset({"mean", "std"} if self.kind == "interpolation" else {"alpha"})

    def build(self, epochs: int, initial: Mapping[str, Tensor]) -> GaussianAverage | Interpolation:
        """The averaging of a run.

        Args:
            epochs: Number of epochs of the run.
            initial: The learned tensors by name, before the first step.
        """
        if self.kind == "gaussian":
            return GaussianAverage(self, epochs)
        return Interpolation(self, epochs, initial)


class GaussianAverage:
    """Gaussian-weighted average of the weights at the end of every epoch (arXiv 2307.06948).

    Epoch e of N, counted from 1, weighs exp(-(e - mean)^2 / (2 std^2)), normalised over 1..N.

    Args:
        config: Mean and std, in epochs.
        epochs: Number of epochs of the run, N.

    Example:
        >>> average = GaussianAverage(AveragingConfig(mean=2, std=1), epochs=2)
        >>> average.add(0, {"x": torch.tensor(0.0)})
        >>> average.add(1, {"x": torch.tensor(1.0)})
        >>> average.state["x"]  # 1 / (1 + exp(-1 / 2))
        tensor(0.6225)
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
        epochs: Number of epochs of the run.
        initial: theta_0; copied. It is a function of the seed, so a resumed run has it again.

    Example:
        >>> config = AveragingConfig(kind="interpolation", alpha=0.25)
        >>> average = Interpolation(config, epochs=1, initial={"x": torch.tensor(0.0)})
        >>> average.add(0, {"x": torch.tensor(1.0)})
        >>> average.state["x"]
        tensor(0.2500)
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
