"""Accuracy and what belongs beside it."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

Z95 = 1.959963984540054


def harmonic_mean(base: float, novel: float) -> float:
    """HM of two accuracies, 2bn / (b + n); 0 if both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


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


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """ECE with equal-width bins of the top probability (Guo et al. 2017, arXiv 1706.04599).

    Args:
        probabilities: (n, c), rows summing to 1.
        labels: (n,).
        bins: Number of bins.
    """
    confidence, predicted = probabilities.max(-1)
    correct = (predicted == labels).double()
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.double).index_add_(0, index, correct - confidence.double())
    return float(gaps.abs().sum() / len(labels))
