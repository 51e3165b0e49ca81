import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restore_vlm.method.averaging import AveragingConfig, GaussianAverage
from restore_vlm.method.gradient import project_out


@given(st.integers(0, 1000))
def test_project_out_never_opposes_the_guide(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    gradient, guide = (torch.randn(3, 4, generator=rng, dtype=torch.double) for _ in range(2))
    kept = project_out(gradient, guide)
    if (gradient * guide).sum() >= 0:
        assert torch.equal(kept, gradient)
    else:
        assert (kept * guide).sum().item() == pytest.approx(0, abs=1e-9)
        assert kept.norm() <= gradient.norm()


@pytest.mark.parametrize(("mean", "std", "epochs"), [(15, 1, 20), (2, 0.5, 3), (1, 10, 1)])
def test_gaussian_average_is_the_direct_computation(mean: float, std: float, epochs: int) -> None:
    states = [{"p": torch.randn(3)} for _ in range(epochs)]
    average = GaussianAverage(AveragingConfig(mean=mean, std=std), epochs)
    for epoch, state in enumerate(states):
        average.add(epoch, state)
    weights = [math.exp(-((e - mean) ** 2) / (2 * std**2)) for e in range(1, epochs + 1)]
    direct = sum(w * s["p"] for w, s in zip(weights, states, strict=True)) / sum(weights)
    torch.testing.assert_close(average.state["p"], direct)


def test_epochs_far_from_the_mean_leave_the_last_weights() -> None:
    average = GaussianAverage(AveragingConfig(mean=1e6, std=1), 2)
    average.add(0, {"p": torch.ones(1)})
    average.add(1, {"p": torch.full((1,), 3.0)})
    assert average.state["p"].item() == 3


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_interpolation_is_between_before_and_after(alpha: float) -> None:
    config = AveragingConfig(kind="interpolation", alpha=alpha)
    weights = {"p": torch.randn(3)}
    before = weights["p"].clone()
    average = config.build(3, weights)
    for epoch in range(3):
        assert average.state == {}
        weights["p"] += 1
        average.add(epoch, weights)
    torch.testing.assert_close(average.state["p"], before + alpha * (weights["p"] - before))


def test_the_kind_of_averaging() -> None:
    assert isinstance(AveragingConfig().build(3, {}), GaussianAverage)
