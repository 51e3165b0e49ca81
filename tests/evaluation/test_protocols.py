import pytest

from restore_vlm.errors import UserError
from restore_vlm.evaluation import protocols
from restore_vlm.evaluation.protocols import (
    ELEVEN,
    SHOTS,
    TARGETS,
    VARIANTS,
    base_to_novel,
    cross_dataset,
    domain_generalisation,
    few_shot,
)


def test_base_to_novel_trains_on_base_and_tests_both() -> None:
    trials = base_to_novel(["dtd", "eurosat"], [1, 2])
    assert [(t.dataset, t.seed) for t in trials] == [("dtd", 1), ("dtd", 2), ("eurosat", 1), ("eurosat", 2)]
    assert {(t.part, t.shots) for t in trials} == {("base", 16)}
    assert trials[0].tests == (protocols.Test("dtd", "base"), protocols.Test("dtd", "novel"))


@pytest.mark.parametrize("protocol", [cross_dataset, domain_generalisation])
def test_a_source_is_trained_once_for_all_targets(protocol) -> None:
    (trial,) = protocol("imagenet", TARGETS, [3])
    assert (trial.dataset, trial.part, trial.seed) == ("imagenet", "all", 3)
    assert trial.tests == tuple(protocols.Test(d) for d in ELEVEN)


def test_few_shot_has_all_shots() -> None:
    trials = few_shot(["dtd"], [1])
    assert tuple(t.shots for t in trials) == SHOTS
    assert {(t.part, t.tests) for t in trials} == {("all", (protocols.Test("dtd"),))}


def test_published_datasets() -> None:
    assert len(set(ELEVEN)) == 11
    assert len(VARIANTS) == 4


def test_the_catalogue_knows_them() -> None:
    catalogue = pytest.importorskip("restore_vlm.data.catalogue")
    assert set(ELEVEN) | set(VARIANTS) == set(catalogue.DATASETS)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: base_to_novel(["dtd"], [0]), "0 is not possible as seed"),
        (lambda: base_to_novel(["dtd"], [1], 0), "0 is not possible as shots"),
        (lambda: few_shot(["dtd"], [1], [4, 0]), "0 is not possible as shots"),
        (lambda: base_to_novel([], [1]), "No dataset"),
        (lambda: base_to_novel(["dtd"], []), "No seed"),
        (lambda: base_to_novel(["dtd", "dtd"], [1]), "'dtd' is given twice"),
        (lambda: base_to_novel(["dtd"], [1, 1]), "seed 1 is given twice"),
        (lambda: cross_dataset("dtd", ["dtd"], [1]), "both source and target"),
        (lambda: cross_dataset("dtd", [], [1]), "No target"),
    ],
)
def test_bad_input(wrong, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wrong()
