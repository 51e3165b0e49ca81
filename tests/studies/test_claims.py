"""Claims from the numbers of a small real grid, and from numbers whose verdict is known."""

from pathlib import Path

import pytest
from scipy import stats

from restore_vlm.evaluation.statistics import Estimate, holm
from restore_vlm.figures import Record, read_records
from restore_vlm.figures.runs import Run, runs_of
from studies.restore.claims import (
    AFTER,
    BEFORE,
    CONTRADICTED,
    HOLDS,
    NOT_MEASURED,
    UNDECIDED,
    Claim,
    judge,
)

SPEARMAN = "Spearman of discrepancy and gain over zero-shot,"
RESTRICTED = ", only methods that gain on base"


@pytest.fixture(scope="module")
def records(grid: Path) -> list[Record]:
    return read_records([grid])


@pytest.fixture(scope="module")
def runs(records: list[Record]) -> list[Run]:
    return runs_of(records)


def by_measure(claims: list[Claim]) -> dict[str, Claim]:
    found = {c.measured: c for c in claims}
    assert len(found) == len(claims)
    return found


def of(records: list[Record], method: str, part: str, settings: tuple[str, ...] = ()) -> list[Record]:
    """One per dataset, in order."""
    found = [r for r in records if (r.method, r.part, r.settings) == (method, part, settings)]
    return sorted(found, key=lambda r: r.dataset)


def made_up(**accuracies: list[list[float]]) -> list[Run]:
    """Accuracy on novel classes by method, dataset and seed."""
    return [
        Run(method, "", f"d{d}", "novel", seed, value)
        for method, table in accuracies.items()
        for d, row in enumerate(table)
        for seed, value in enumerate(row)
    ]


def test_every_claim_of_the_paper_is_there(runs: list[Run]) -> None:
    claims = judge(runs)
    assert list(dict.fromkeys(c.claim for c in claims)) == [
        "Tuning one tower alone misaligns the two",
        "More discrepancy, less gain",
        "L_fs reduces the discrepancy",
        "L_fs lifts novel accuracy",
        "Surgery helps where both towers drift together",
        "RESTORE beats IVLP and MaPLe",
    ]
    by_measure(claims)
    assert {c.verdict for c in claims} <= {HOLDS, CONTRADICTED, UNDECIDED}
    assert {c.estimate.over.split(" x ")[-1] for c in claims if c.estimate} == {"1 seed", "2 datasets"}


def test_a_claim_is_the_paired_difference(records: list[Record], runs: list[Run]) -> None:
    claim = by_measure(judge(runs))["discrepancy on novel classes, vpt - ivlp"]
    shifts = [
        [r.shift["total_discrepancy"] for r in of(records, m, "novel") if r.shift] for m in ("vpt", "ivlp")
    ]
    test = stats.ttest_rel(*shifts)
    interval = test.confidence_interval(0.95)
    assert claim.estimate
    assert (claim.estimate.low, claim.estimate.high) == pytest.approx((interval.low, interval.high))
    assert claim.estimate.p == pytest.approx(test.pvalue)
    assert claim.estimate.over == "2 datasets x 1 seed"


def test_variants_are_compared_with_the_method_as_it_is(records: list[Record], runs: list[Run]) -> None:
    claim = by_measure(judge(runs))["novel accuracy, points, restore - restore without surgery"]
    whole, without = of(records, "restore", "novel"), of(records, "restore", "novel", ("surgery=none",))
    expected = sum(a.accuracy - b.accuracy for a, b in zip(whole, without, strict=True)) / 2
    assert claim.estimate and claim.estimate.value == pytest.approx(expected)


def test_the_cosine_is_of_matching_pairs(records: list[Record], runs: list[Run]) -> None:
    claim = by_measure(judge(runs))["cosine of matching novel pairs, lpt - ivlp"]
    changes = [
        sum(
            r.shift["after"]["matching"] - r.shift["before"]["matching"]
            for r in of(records, m, "novel")
            if r.shift
        )
        for m in ("lpt", "ivlp")
    ]
    assert claim.estimate and claim.estimate.value == pytest.approx((changes[0] - changes[1]) / 2)


def test_the_verdict_follows_the_numbers() -> None:
    lifts = "novel accuracy, points, ivlp_fs - ivlp"
    low, high = [[50, 51, 52], [40, 41, 43], [30, 32, 31]], [[60, 61, 62], [50, 51, 54], [40, 42, 42]]

    def verdict(ivlp: list[list[float]], ivlp_fs: list[list[float]]) -> str:
        return by_measure(judge(made_up(ivlp=ivlp, ivlp_fs=ivlp_fs)))[lifts].verdict

    assert verdict(low, high) == HOLDS
    assert verdict(high, low) == CONTRADICTED
    assert verdict(low, [[50, 51, 54], [44, 37, 43], [29, 33, 31]]) == UNDECIDED
    assert verdict([[50.0]], [[60.0]]) == UNDECIDED


def test_p_is_corrected_for_all_claims(runs: list[Run]) -> None:
    claims = judge(runs)
    alone = [c.estimate.p if c.estimate else None for c in claims]
    assert sum(p is not None for p in alone) > 10
    assert [c.p for c in claims] == holm(alone)


def test_significant_alone_is_not_enough() -> None:
    alone = Estimate(-1.0, -1.9, -0.1, 0.03)
    assert Claim("", "", -1, BEFORE, alone, 0.03).verdict == HOLDS
    assert Claim("", "", -1, BEFORE, alone, 0.06).verdict == UNDECIDED


def test_both_measures_of_shift_are_compared_with_none(records: list[Record], runs: list[Run]) -> None:
    measured = "discrepancy on base classes, restore with L_fs by embeddings - without L_fs"
    claim = by_measure(judge(runs))[measured]
    settings = (("losses.feature_shift.measure=embedding",), ("losses.feature_shift=none",))
    one, other = ([r.shift for r in of(records, "restore", "base", s)] for s in settings)
    differences = [
        a["total_discrepancy"] - b["total_discrepancy"] for a, b in zip(one, other, strict=True) if a and b
    ]
    assert claim.estimate and claim.estimate.value == pytest.approx(sum(differences) / 2)


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ({"vpt"}, {"discrepancy on novel classes, vpt - ivlp", "cosine of matching novel pairs, vpt - ivlp"}),
        ({"maple"}, {"HM of each run, points, restore - maple"}),
        ({"clip"}, {f"{SPEARMAN} {half}{few}" for half in ("novel", "base") for few in ("", RESTRICTED)}),
    ],
)
def test_what_is_not_among_the_runs_is_not_measured(
    runs: list[Run], left_out: set[str], missing: set[str]
) -> None:
    claims = judge([r for r in runs if r.method not in left_out])
    found = {c.measured for c in claims if c.verdict == NOT_MEASURED}
    assert found == missing


def test_a_variant_that_is_missing_is_not_measured(runs: list[Run]) -> None:
    found = judge([r for r in runs if "surgery=none" not in r.changed.split()])
    missing = {c.claim for c in found if c.verdict == NOT_MEASURED}
    assert missing == {"Surgery helps where both towers drift together"}


def test_restriction_is_given_for_both_halves_and_marked(runs: list[Run]) -> None:
    claims = by_measure(judge(runs))
    for half in ("novel", "base"):
        assert claims[f"{SPEARMAN} {half}"].decided == BEFORE
        assert claims[f"{SPEARMAN} {half}{RESTRICTED}"].decided == AFTER
