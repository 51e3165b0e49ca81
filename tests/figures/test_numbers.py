"""Means over seeds, and the harmonic mean of them."""

from pathlib import Path
from statistics import stdev

import pytest

from restore_vlm.evaluation import harmonic_mean
from restore_vlm.figures import Record
from restore_vlm.figures.numbers import hm_over_seeds


def record(dataset: str, part: str, seed: int, accuracy: float) -> Record:
    result = {"accuracy": accuracy / 100}
    return Record("base-to-novel", "maple", (), dataset, dataset, part, 16, seed, "tiny", result, Path())


def test_harmonic_mean_is_of_the_averages() -> None:
    """Not the mean of the runs' harmonic means, which is lower."""
    accuracies = {("a", 1): (60, 80), ("a", 2): (62, 70), ("b", 1): (20, 10), ("b", 2): (30, 14)}
    records = [
        record(dataset, part, seed, value)
        for (dataset, seed), pair in accuracies.items()
        for part, value in zip(("base", "novel"), pair, strict=True)
    ]
    found = hm_over_seeds(records)
    assert found.mean == pytest.approx(harmonic_mean(43, 43.5))
    assert found.std == pytest.approx(stdev([harmonic_mean(40, 45), harmonic_mean(46, 42)]))
    assert found.seeds == 2
    assert found.mean > sum(harmonic_mean(*pair) for pair in accuracies.values()) / 4
