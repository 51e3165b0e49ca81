"""The paper's claims about feature shift, each turned into a number with an interval and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from restore_vlm.errors import UserError
from restore_vlm.evaluation.statistics import LEVEL, Estimate, Scores, difference, harmonic_mean, holm
from restore_vlm.figures.accuracy import METHOD
from restore_vlm.figures.runs import Run
from restore_vlm.figures.shift import correlation, gain_points, gaining

HOLDS, CONTRADICTED, UNDECIDED = "holds", "contradicted", "undecided"
NOT_MEASURED = "not measured"
BEFORE, AFTER = "before", "after"
SINGLE, RIVALS = ("vpt", "lpt"), ("ivlp", "maple")
NO_L_FS, NO_SURGERY = "losses.feature_shift=none", "surgery=none"
BY_EMBEDDINGS = "losses.feature_shift.measure=embedding"
FAST, FAST_TEXT = "training.lr=0.03", ", at three times the learning rate"


@dataclass(frozen=True)
class Claim:
    """What the paper says, and what came out here.

    Attributes:
        claim: In a few words.
        measured: The quantity.
        expected: Its sign if the claim is right, 1 or -1.
        decided: Whether the row was there ``before`` the results of the study or came ``after`` them.
        estimate: With its 95 % interval; None where the runs it needs are not there.
        p: Of the estimate, corrected by Holm's method for all claims that have one.
    """

    claim: str
    measured: str
    expected: int
    decided: str
    estimate: Estimate | None
    p: float | None = None

    @property
    def verdict(self) -> str:
        """``holds`` if the corrected p is below 0.05, or ``contradicted`` where the sign is the other."""
        if self.estimate is None:
            return NOT_MEASURED
        if self.p is None or self.p >= LEVEL:
            return UNDECIDED
        return HOLDS if self.estimate.value * self.expected > 0 else CONTRADICTED

    def row(self) -> dict[str, object]:
        """The fields of ``claims.csv``."""
        e = self.estimate or Estimate(float("nan"))
        return {
            "claim": self.claim, "measured": self.measured, "expected": "+" if self.expected > 0 else "-",
            "decided": self.decided, "estimate": e.value if self.estimate else None, "low": e.low,
            "high": e.high, "over": e.over, "p": e.p, "p_holm": self.p, "verdict": self.verdict,
        }  # fmt: skip


Quantity = Callable[[Run], float | None]


def judge(runs: Iterable[Run]) -> list[Claim]:
    """All claims; those whose runs are not there have no estimate."""
    runs = list(runs)
    found = [*_misalignment(runs), *_relation(runs), *_consistency(runs), *_surgery(runs), *_hm(runs)]
    corrected = holm([c.estimate.p if c.estimate else None for c in found])
    return [replace(c, p=p) for c, p in zip(found, corrected, strict=True)]


def _scores(runs: Sequence[Run], method: str, part: str, value: Quantity, changed: str = "") -> Scores:
    """Empty where it is not measured."""
    return {
        (r.dataset, r.seed): number
        for r in runs
        if (r.method, r.part, r.changed) == (method, part, changed) and (number := value(r)) is not None
    }


def _less(first: Scores, second: Scores) -> Estimate | None:
    return difference(first, second) if first.keys() & second.keys() else None


def _discrepancy(run: Run) -> float | None:
    return run.discrepancy


def _accuracy(run: Run) -> float:
    return run.accuracy


def _both(run: Run) -> float | None:
    return None if run.text is None or run.image is None else (run.text + run.image) / 2


def _misalignment(runs: Sequence[Run]) -> Iterator[Claim]:
    claim = "Tuning one tower alone misaligns the two"
    quantities: tuple[tuple[str, int, Quantity], ...] = (
        ("discrepancy on novel classes", 1, _discrepancy),
        ("cosine of matching novel pairs", -1, lambda r: r.matching),
    )
    for method in SINGLE:
        for what, sign, value in quantities:
            one, both = (_scores(runs, name, "novel", value) for name in (method, "ivlp"))
            yield Claim(claim, f"{what}, {method} - ivlp", sign, BEFORE, _less(one, both))


def _relation(runs: Sequence[Run]) -> Iterator[Claim]:
    claim, what = "More discrepancy, less gain", "Spearman of discrepancy and gain over zero-shot"
    try:
        points = gain_points(runs)
    except UserError:
        points = []
    learned = gaining(points)
    for half in ("novel", "base"):
        own = [p for p in points if p["half"] == half]
        few = [p for p in own if p["method"] in learned]
        for these, text, decided in ((own, "", BEFORE), (few, ", only methods that gain on base", AFTER)):
            yield Claim(claim, f"{what}, {half}{text}", -1, decided, correlation(these) if these else None)


def _consistency(runs: Sequence[Run]) -> Iterator[Claim]:
    quantities: tuple[tuple[str, str, str, int, Quantity], ...] = (
        ("L_fs reduces the discrepancy", "discrepancy on base classes", "base", -1, _discrepancy),
        ("L_fs lifts novel accuracy", "novel accuracy, points", "novel", 1, _accuracy),
    )
    for claim, what, part, sign, value in quantities:
        ivlp_fs, ivlp = (_scores(runs, method, part, value) for method in ("ivlp_fs", "ivlp"))
        by_embeddings, bare = (
            _scores(runs, METHOD, part, value, changed) for changed in (BY_EMBEDDINGS, NO_L_FS)
        )
        text = f"{what}, restore with L_fs by embeddings - without L_fs"
        yield Claim(claim, f"{what}, ivlp_fs - ivlp", sign, BEFORE, _less(ivlp_fs, ivlp))
        yield Claim(claim, text, sign, BEFORE, _less(by_embeddings, bare))
        yield from _without(runs, claim, what, sign, part, value, NO_L_FS, "L_fs")


def _surgery(runs: Sequence[Run]) -> Iterator[Claim]:
    claim = "Surgery helps where both towers drift together"
    quantities: tuple[tuple[str, str, int, Quantity], ...] = (
        ("novel accuracy, points", "novel", 1, _accuracy),
        ("shift of both towers", "base", -1, _both),
    )
    for what, part, sign, value in quantities:
        yield from _without(runs, claim, what, sign, part, value, NO_SURGERY, "surgery")


def _without(
    runs: Sequence[Run], claim: str, what: str, sign: int, part: str, value: Quantity, changed: str, name: str
) -> Iterator[Claim]:
    """RESTORE less RESTORE without one of its parts, as it is and where the towers move further."""
    for whole, less, text, decided in (
        ("", changed, "", BEFORE),
        (FAST, f"{changed} {FAST}", FAST_TEXT, AFTER),
    ):
        pair = (_scores(runs, METHOD, part, value, settings) for settings in (whole, less))
        yield Claim(claim, f"{what}, restore - restore without {name}{text}", sign, decided, _less(*pair))


def _hm(runs: Sequence[Run]) -> Iterator[Claim]:
    def of(method: str) -> Scores:
        base, novel = (_scores(runs, method, part, _accuracy) for part in ("base", "novel"))
        return {place: harmonic_mean(base[place], novel[place]) for place in base.keys() & novel.keys()}

    for other in RIVALS:
        measured = f"HM of each run, points, restore - {other}"
        yield Claim("RESTORE beats IVLP and MaPLe", measured, 1, BEFORE, _less(of(METHOD), of(other)))
