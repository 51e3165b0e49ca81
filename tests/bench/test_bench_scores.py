from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_vlm.bench.grid import duration
from restore_vlm.bench.scores import BySeed, Score, average, best, by_seed, measured, score
from restore_vlm.evaluation import harmonic_mean
from restore_vlm.evaluation.protocols.base_to_novel import HM

PERCENT = st.floats(0, 100)
FULL = st.dictionaries(st.integers(1, 9), PERCENT, min_size=1)
HOLED = st.dictionaries(st.integers(1, 9), st.none() | PERCENT, min_size=1)


def hm(base: BySeed, novel: BySeed) -> BySeed:
    return by_seed(HM, (base, novel))


@given(FULL, FULL)
def test_harmonic_mean_lies_between_and_below_the_mean(base: dict, novel: dict) -> None:
    for seed, value in hm(base, novel).items():
        if seed not in base or seed not in novel:
            assert value is None
            continue
        low, high = sorted((base[seed], novel[seed]))
        assert value is not None
        assert low - 1e-9 <= value <= high + 1e-9 or low == 0 == value
        assert value <= (low + high) / 2 + 1e-9
    assert hm(base, novel) == hm(novel, base)


@given(HOLED)
def test_mean_and_spread_are_of_what_is_done(series: dict) -> None:
    found, values = score(series), [v for v in series.values() if v is not None]
    assert (found.done, found.seeds) == (len(values), len(series))
    assert found.complete == (len(values) == len(series))
    assert found.mean == (mean(values) if values else None)
    assert found.std == (stdev(values) if len(values) > 1 else None)


def test_what_does_not_depend_on_seeds_has_no_spread() -> None:
    assert score({1: 50.1, 2: 50.1, 3: 50.1}, seedless=True) == Score(50.1, None, 3, 3)


@given(st.lists(HOLED, min_size=1, max_size=4))
def test_an_average_needs_every_dataset(parts: list) -> None:
    for seed, value in average(parts).items():
        values = [p.get(seed) for p in parts]
        assert value == (None if None in values else mean(values))


@given(st.lists(st.none() | st.builds(Score, PERCENT, st.none(), st.integers(1, 3), st.just(3))))
def test_the_best_are_the_highest_as_printed(scores: list) -> None:
    full = {i: f"{s.mean:.2f}" for i, s in enumerate(scores) if s and s.complete}
    top = best(scores)
    assert top <= full.keys()
    assert bool(top) == bool(full)
    assert all(float(full[i]) >= float(value) for i in top for value in full.values())
    assert len({full[i] for i in top}) <= 1


@given(HOLED, HOLED)
def test_the_harmonic_mean_of_a_table_is_that_of_its_averages(base: dict, novel: dict) -> None:
    found, each = measured(HM, (base, novel)), hm(base, novel)
    both = [seed for seed, value in each.items() if value is not None]
    assert (found.done, found.std) == (len(both), score(each).std)
    if not both:
        assert found.mean is None
        return
    expected = harmonic_mean(*(mean(half[seed] for seed in both) for half in (base, novel)))
    assert found.mean == pytest.approx(expected)


@pytest.mark.parametrize(("seconds", "text"), [(1.2, "1 s"), (600, "10 min"), (3700, "1 h 2 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
