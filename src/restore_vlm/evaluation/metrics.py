"""Accuracy and what belongs beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Z95 = 1.959963984540054


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson 1927); ``total`` must be positive."""
    share, spread = hits / total, Z95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / total / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def per_class_accuracy(predicted: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """Accuracy of every class, None where it has no image; (n,) predictions and labels."""
    counts = torch.bincount(labels, minlength=classes)
    hits = torch.bincount(labels[predicted == labels], minlength=classes)
    return [h / c if c else None for h, c in zip(hits.tolist(), counts.tolist(), strict=True)]


def worst_confusions(predicted: Tensor, labels: Tensor, top: int = 10) -> list[tuple[int, int, int]]:
    """(true, predicted, count) of the most frequent mistakes, most frequent first."""
    wrong = predicted != labels
    pairs = zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True)
    ranked = sorted(Counter(pairs).items(), key=lambda pair: (-pair[1], pair[0]))
    return [(true, guess, count) for (true, guess), count in ranked[:top]]


@dataclass(frozen=True)
class Bin:
    """Images of about the same confidence.

    Attributes:
        confidence: Their mean top probability.
        accuracy: Share of them that are right.
        count: How many there are.
    """

    confidence: float
    accuracy: float
    count: int


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> list[Bin]:
    """The bins of a reliability diagram, of equal width in the top probability; empty ones left out.

    Args:
        probabilities: (n, c), rows summing to 1.
        labels: (n,).
        bins: Number of bins.
    """
    confidence, predicted = probabilities.double().max(-1)
    correct = (predicted == labels).double()
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    groups = [(confidence[index == b], correct[index == b]) for b in range(bins)]
    return [Bin(c.mean().item(), r.mean().item(), len(c)) for c, r in groups if len(c)]


def expected_calibration_error(found: Sequence[Bin]) -> float:
    """ECE (Guo et al. 2017, arXiv 1706.04599) of the bins of :func:`reliability`."""
    total = sum(b.count for b in found)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in found) / total


def true_class(probabilities: Tensor, labels: Tensor, bins: int = 20) -> tuple[float, list[int]]:
    """Mean of P(c|x), the probability of an image's own class, and its histogram over [0, 1].

    Args:
        probabilities: (n, c), rows summing to 1.
        labels: (n,).
        bins: Of equal width.
    """
    own = probabilities.double().gather(1, labels[:, None]).squeeze(1)
    counts = torch.bincount((own * bins).long().clamp(0, bins - 1), minlength=bins)
    return own.mean().item(), counts.tolist()
