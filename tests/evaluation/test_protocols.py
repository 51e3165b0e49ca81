from collections.abc import Callable

import pytest

from restore_vlm.errors import UserError
from restore_vlm.evaluation.protocol import ELEVEN, Column, EvalSet, Protocol
from restore_vlm.evaluation.protocols import PROTOCOLS, get_protocol
from restore_vlm.method.choice import SHOTS, VARIANTS

BASE_TO_NOVEL, CROSS_DATASET, FEW_SHOT = (
    get_protocol(name) for name in ("base-to-novel", "cross-dataset", "few-shot")
)


def test_base_to_novel_trains_on_base_and_tests_both() -> None:
    trials = BASE_TO_NOVEL.trials(["dtd", "eurosat"], [1, 2])
    assert [(t.dataset, t.seed) for t in trials] == [("dtd", 1), ("dtd", 2), ("eurosat", 1), ("eurosat", 2)]
    assert {(t.part, t.shots) for t in trials} == {("base", 16)}
    assert trials[0].tests == (EvalSet("dtd", "base"), EvalSet("dtd", "novel"))


@pytest.mark.parametrize(
    ("name", "targets"), [("cross-dataset", ELEVEN[1:]), ("domain-generalisation", VARIANTS)]
)
def test_a_source_is_trained_once_for_all_targets(name: str, targets: tuple[str, ...]) -> None:
    protocol = get_protocol(name)
    assert protocol.transfer and protocol.transfer.targets == targets
    (trial,) = protocol.trials(["imagenet"], [3], targets=targets)
    assert (trial.dataset, trial.part, trial.seed, trial.shots) == ("imagenet", "all", 3, 16)
    assert trial.tests == tuple(EvalSet(d) for d in ("imagenet", *targets))


def test_few_shot_has_all_shots() -> None:
    trials = FEW_SHOT.trials(["dtd"], [1])
    assert tuple(t.shots for t in trials) == SHOTS
    assert {(t.part, t.tests) for t in trials} == {("all", (EvalSet("dtd"),))}
    assert [t.shots for t in BASE_TO_NOVEL.trials(["dtd"], [1], [None])] == [None]


def test_published_datasets() -> None:
    assert len(set(ELEVEN)) == 11
    assert len(VARIANTS) == 4


def test_the_catalogue_knows_them() -> None:
    catalogue = pytest.importorskip("restore_vlm.data.catalogue")
    assert set(ELEVEN) | set(VARIANTS) == set(catalogue.DATASETS)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_what_a_protocol_says_fits_together(protocol: Protocol) -> None:
    def terms(columns: tuple[Column, ...]) -> set[str]:
        return {term.part for column in columns for term in column.measure.terms}

    assert PROTOCOLS[protocol.name] is protocol
    assert terms(protocol.layout.columns) == set(protocol.tested)
    assert {term.part for measure in protocol.measures for term in measure.terms} == set(protocol.tested)
    assert not protocol.layout.average or protocol.layout.tables[-1] == "source"
    by_dataset = [c for c in protocol.layout.columns if c.over_targets or c.each == "dataset"]
    assert bool(by_dataset) == bool(protocol.transfer)
    if protocol.published:
        assert all(len(row) == len(protocol.layout.columns) for *_, row in protocol.published.rows)


def test_an_unknown_protocol() -> None:
    with pytest.raises(UserError, match="did you mean 'few-shot'"):
        get_protocol("fewshot")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: BASE_TO_NOVEL.trials(["dtd"], [0]), "0 is not possible as seed"),
        (lambda: BASE_TO_NOVEL.trials(["dtd"], [1], [0]), "0 is not possible as shots"),
        (lambda: FEW_SHOT.trials(["dtd"], [1], [4, 0]), "0 is not possible as shots"),
        (lambda: FEW_SHOT.trials(["dtd"], [1], []), "No number of shots"),
        (lambda: FEW_SHOT.trials(["dtd"], [1], [4, 4]), "number of shots 4 is given twice"),
        (lambda: BASE_TO_NOVEL.trials([], [1]), "No dataset"),
        (lambda: BASE_TO_NOVEL.trials(["dtd"], []), "No seed"),
        (lambda: BASE_TO_NOVEL.trials(["dtd", "dtd"], [1]), "'dtd' is given twice"),
        (lambda: BASE_TO_NOVEL.trials(["dtd"], [1, 1]), "seed 1 is given twice"),
        (lambda: BASE_TO_NOVEL.trials(["dtd"], [1], targets=["eurosat"]), "base-to-novel has no targets"),
        (lambda: CROSS_DATASET.trials(["dtd"], [1], targets=["dtd"]), "both source and target"),
        (lambda: CROSS_DATASET.trials(["dtd"], [1]), "No target"),
    ],
)
def test_bad_input(wrong: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wrong()
