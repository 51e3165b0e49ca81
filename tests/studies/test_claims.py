"""Claims from the numbers of a small real grid, and from numbers whose verdict is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from studies.restore.claims import CONTRADICTED, HOLDS, UNDECIDED, Claim, judge

from restore_vlm import UserError
from restore_vlm.figures import Record, read_records


@pytest.fixture(scope="module")
def records(grid: Path) -> list[Record]:
    return read_records([grid])


def by_measure(claims: list[Claim]) -> dict[str, Claim]:
    found = {c.measured: c for c in claims}
    assert len(found) == len(claims)
    return found


def of(records: list[Record], method: str, part: str, settings: tuple[str, ...] = ()) -> list[Record]:
    """One per dataset, in order."""
    found = [r for r in records if (r.method, r.part, r.settings) == (method, part, settings)]
    return sorted(found, key=lambda r: r.dataset)


def set_to(records: list[Record], **changes: Any) -> list[Record]:
    """The same tests with another outcome, by method: accuracy on novel classes."""
    return [
        replace(r, result={**r.result, "accuracy": changes[r.method]})
        if r.method in changes and r.part == "novel" and not r.settings
        else r
        for r in records
    ]


def test_every_claim_of_the_paper_is_there(records: list[Record]) -> None:
    claims = judge(records)
    assert list(dict.fromkeys(c.claim for c in claims)) == [
        "Tuning one tower alone misaligns the two",
        "More discrepancy, less gain",
        "L_fs reduces the discrepancy",
        "L_fs lifts novel accuracy",
        "Surgery helps where both towers drift together",
        "RESTORE beats IVLP and MaPLe",
    ]
    by_measure(claims)
    assert {c.estimate.over for c in claims} == {"datasets", "methods"}


def test_a_claim_is_the_paired_difference(records: list[Record]) -> None:
    claim = by_measure(judge(records))["discrepancy on novel classes, vpt - ivlp"]
    shifts = [
        [r.shift["total_discrepancy"] for r in of(records, m, "novel") if r.shift] for m in ("vpt", "ivlp")
    ]
    test = stats.ttest_rel(*shifts)
    interval = test.confidence_interval(0.95)
    assert (claim.estimate.low, claim.estimate.high) == pytest.approx((interval.low, interval.high))
    assert claim.estimate.p == pytest.approx(test.pvalue)
    assert claim.estimate.n == 2


def test_variants_are_compared_with_the_method_as_it_is(records: list[Record]) -> None:
    claim = by_measure(judge(records))["novel accuracy, points, restore - restore without surgery"]
    whole, without = of(records, "restore", "novel"), of(records, "restore", "novel", ("surgery=none",))
    expected = sum(a.accuracy - b.accuracy for a, b in zip(whole, without, strict=True)) / 2
    assert claim.estimate.value == pytest.approx(expected)


def test_the_verdict_follows_the_numbers(records: list[Record]) -> None:
    lifts = "novel accuracy, points, ivlp_fs - ivlp"
    assert by_measure(judge(set_to(records, ivlp=0.5, ivlp_fs=0.501)))[lifts].verdict == HOLDS
    assert by_measure(judge(set_to(records, ivlp=0.5, ivlp_fs=0.499)))[lifts].verdict == CONTRADICTED
    one = [r for r in records if r.dataset == "split"]
    assert by_measure(judge(one))[lifts].verdict == UNDECIDED


def test_both_measures_of_shift_are_compared_with_none(records: list[Record]) -> None:
    measured = "discrepancy on base classes, restore with L_fs by embeddings - without L_fs"
    claim = by_measure(judge(records))[measured]
    settings = (("losses.feature_shift.measure=embedding",), ("losses.feature_shift=none",))
    one, other = ([r.shift for r in of(records, "restore", "base", s)] for s in settings)
    differences = [
        a["total_discrepancy"] - b["total_discrepancy"] for a, b in zip(one, other, strict=True) if a and b
    ]
    assert claim.estimate.value == pytest.approx(sum(differences) / 2)


@pytest.mark.parametrize("method", ["vpt", "lpt", "ivlp", "ivlp_fs", "maple", "restore"])
def test_a_method_that_is_missing_is_named(records: list[Record], method: str) -> None:
    with pytest.raises(UserError, match=f"{method} "):
        judge([r for r in records if r.method != method])


def test_a_variant_that_is_missing_is_named(records: list[Record]) -> None:
    with pytest.raises(UserError, match="need restore with --set surgery=none"):
        judge([r for r in records if "surgery=none" not in r.settings])
