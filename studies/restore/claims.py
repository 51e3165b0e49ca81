"""The paper's claims about feature shift, each turned into a number with an interval and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from restore_vlm.errors import UserError
from restore_vlm.figures.accuracy import METHOD, reference, scores_of
from restore_vlm.figures.numbers import Estimate, halves, paired, variants, with_shift
from restore_vlm.figures.records import Record
from restore_vlm.figures.shift import TOWERS, correlation, discrepancy, gain_points, gaining, tower_shift

HOLDS, CONTRADICTED, UNDECIDED = "holds", "contradicted", "undecided"
SINGLE, RIVALS = ("vpt", "lpt"), ("ivlp", "maple")
NO_L_FS, NO_SURGERY = ("losses.feature_shift=none",), ("surgery=none",)
BY_EMBEDDINGS = ("losses.feature_shift.measure=embedding",)
FAST, FAST_TEXT = ("training.lr=0.03",), ", at three times the learning rate"


@dataclass(frozen=True)
class Claim:
    """What the paper says, and what came out here.

    Attributes:
        claim: In a few words.
        measured: The quantity.
        expected: Its sign if the claim is right, 1 or -1.
        estimate: With its 95 % interval.
    """

    claim: str
    measured: str
    expected: int
    estimate: Estimate

    @property
    def verdict(self) -> str:
        """``holds`` if the whole interval has the expected sign, ``contradicted`` if the other."""
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None or low <= 0 <= high:
            return UNDECIDED
        return HOLDS if low * self.expected > 0 else CONTRADICTED

    def row(self) -> dict[str, object]:
        e = self.estimate
        return {
            "claim": self.claim, "measured": self.measured, "expected": "+" if self.expected > 0 else "-",
            "estimate": e.value, "low": e.low, "high": e.high, "n": e.n, "over": e.over,
            "p": e.p, "verdict": self.verdict,
        }  # fmt: skip


Quantity = Callable[[Record], float]


def judge(records: Iterable[Record]) -> list[Claim]:
    """All claims, from a grid that has the methods and variants they are about.

    Raises:
        UserError: If it lacks one of them.
    """
    records = list(records)
    mine = with_shift(halves(records))
    return [
        *_misalignment(mine),
        *_relation(mine),
        *_consistency(records, mine),
        *_surgery(records),
        *_hm(mine),
    ]


def _of(records: Sequence[Record], method: str, part: str, value: Quantity) -> dict[tuple[str, int], float]:
    found = {(r.dataset, r.seed): value(r) for r in records if (r.method, r.part) == (method, part)}
    if not found:
        raise UserError(f"The claims are about {method} on {part} classes too, which is not among the runs.")
    return found


def _variant(records: Sequence[Record], changed: tuple[str, ...]) -> tuple[list[Record], list[Record]]:
    """RESTORE as it is and with something changed, on the same datasets."""
    runs = _changed(records, changed)
    return with_shift(reference(records, {r.dataset for r in runs})), with_shift(runs)


def _changed(records: Sequence[Record], changed: tuple[str, ...]) -> list[Record]:
    runs = variants(records).get((METHOD, changed))
    if not runs:
        raise UserError(
            f"The claims need {METHOD} with --set {' '.join(changed)}, which is not among the runs."
        )
    return runs


def _matching(record: Record) -> float:
    """Change of the mean cosine of matching pairs."""
    assert record.shift is not None
    return record.shift["after"]["matching"] - record.shift["before"]["matching"]


def _both(record: Record) -> float:
    return sum(tower_shift(record, tower) for tower in TOWERS) / 2


def _misalignment(mine: Sequence[Record]) -> list[Claim]:
    claim = "Tuning one tower alone misaligns the two"
    found = []
    for method in SINGLE:
        apart = paired(_of(mine, method, "novel", discrepancy), _of(mine, "ivlp", "novel", discrepancy))
        cosine = paired(_of(mine, method, "novel", _matching), _of(mine, "ivlp", "novel", _matching))
        found += [
            Claim(claim, f"discrepancy on novel classes, {method} - ivlp", 1, apart),
            Claim(claim, f"cosine of matching novel pairs, {method} - ivlp", -1, cosine),
        ]
    return found


def _relation(mine: Sequence[Record]) -> list[Claim]:
    claim, points = "More discrepancy, less gain", gain_points(mine)
    what = "Spearman of discrepancy and gain over zero-shot,"
    learned = gaining(points)
    novel, base = ([p for p in points if p["half"] == half] for half in ("novel", "base"))
    few = [p for p in novel if p["method"] in learned]
    found = [Claim(claim, f"{what} novel", -1, correlation(novel))]
    if few:
        text = f"{what} novel, only methods that gain on base"
        found.append(Claim(claim, text, -1, correlation(few)))
    return [*found, Claim(claim, f"{what} base", -1, correlation(base))]


def _consistency(records: Sequence[Record], mine: Sequence[Record]) -> list[Claim]:
    less, more = "L_fs reduces the discrepancy", "L_fs lifts novel accuracy"
    whole, without = _variant(records, NO_L_FS)
    _, by_embeddings = _variant(records, BY_EMBEDDINGS)
    quantities: tuple[tuple[str, str, int, Quantity], ...] = (
        (less, "discrepancy on base classes", -1, discrepancy),
        (more, "novel accuracy, points", 1, lambda r: r.accuracy),
    )
    found = []
    for claim, what, sign, value in quantities:
        part = "base" if "base" in what else "novel"
        ivlp = paired(_of(mine, "ivlp_fs", part, value), _of(mine, "ivlp", part, value))
        bare = _of(without, METHOD, part, value)
        restore = paired(_of(whole, METHOD, part, value), bare)
        definition = paired(_of(by_embeddings, METHOD, part, value), bare)
        found += [
            Claim(claim, f"{what}, ivlp_fs - ivlp", sign, ivlp),
            Claim(claim, f"{what}, restore - restore without L_fs", sign, restore),
            Claim(claim, f"{what}, restore with L_fs by embeddings - without L_fs", sign, definition),
            _fast(records, claim, f"{what}, restore - restore without L_fs", sign, part, value, NO_L_FS),
        ]
    return found


def _fast(
    records: Sequence[Record],
    claim: str,
    what: str,
    sign: int,
    part: str,
    value: Quantity,
    without: tuple[str, ...],
) -> Claim:
    """What a part of RESTORE does where the towers move further."""
    whole, less = (with_shift(_changed(records, changed)) for changed in (FAST, without + FAST))
    difference = paired(_of(whole, METHOD, part, value), _of(less, METHOD, part, value))
    return Claim(claim, what + FAST_TEXT, sign, difference)


def _surgery(records: Sequence[Record]) -> list[Claim]:
    whole, without = _variant(records, NO_SURGERY)
    claim, pair = "Surgery helps where both towers drift together", "restore - restore without surgery"
    quantities: tuple[tuple[str, str, int, Quantity], ...] = (
        ("novel accuracy, points", "novel", 1, lambda r: r.accuracy),
        ("shift of both towers", "base", -1, _both),
    )
    found = []
    for what, part, sign, value in quantities:
        usual = paired(_of(whole, METHOD, part, value), _of(without, METHOD, part, value))
        found += [
            Claim(claim, f"{what}, {pair}", sign, usual),
            _fast(records, claim, f"{what}, {pair}", sign, part, value, NO_SURGERY),
        ]
    return found


def _hm(mine: Sequence[Record]) -> list[Claim]:
    scores = {m: scores_of(reference(mine, {r.dataset for r in mine}, m))["HM"] for m in (METHOD, *RIVALS)}
    return [
        Claim("RESTORE beats IVLP and MaPLe", f"HM, points, restore - {other}", 1,
              paired(scores[METHOD], scores[other]))
        for other in RIVALS
    ]  # fmt: skip
