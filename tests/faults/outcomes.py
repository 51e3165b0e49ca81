"""What became of each fault, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SAME = "same bits"
"""Nothing was lost: the results are those without the fault."""
AGAIN = "computed again"
"""What was damaged was made again, the same to the bit."""
READ = "read"
"""It makes sense after all."""
SENTENCE = "one sentence"
"""Refused with one sentence that names the file, exit code 2."""
SAID = "said in the result"
"""Something is missing, and the result says what and why."""
CUT = "cut short"
"""A log that ends early, as that of a run that was stopped does."""
DIFFERENT = "SILENTLY DIFFERENT"
TRACEBACK = "TRACEBACK"
LEFT = "PROCESS LEFT"
GOOD = (SAME, AGAIN, READ, SENTENCE, SAID, CUT)
BAD = (DIFFERENT, TRACEBACK, LEFT)


@dataclass
class Tally:
    """The outcomes of every fault.

    Attributes:
        rows: Outcomes by fault, in order of first appearance.
        failures: What went wrong, in sentences.
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, fault: str, outcome: str, detail: str = "", count: int = 1) -> None:
        """Counts an outcome; a bad one is kept with its detail."""
        self.rows.setdefault(fault, Counter())[outcome] += count
        if outcome in BAD:
            self.failures.append(f"{fault}: {outcome}: {detail}")

    def join(self, other: Tally) -> None:
        """Takes over the counts of another."""
        for fault, row in other.rows.items():
            self.rows.setdefault(fault, Counter()).update(row)
        self.failures += other.failures

    def markdown(self) -> str:
        """The table; columns of outcomes that never happened are left out, but for the bad ones."""
        shown = [o for o in GOOD if any(row[o] for row in self.rows.values())]
        lines = [f"| fault | tried | {' | '.join(shown)} | {' | '.join(o.lower() for o in BAD)} |"]
        lines.append("|---|" + "---:|" * (len(shown) + len(BAD) + 1))
        for fault, row in self.rows.items():
            counts = " | ".join(str(row[o] or "") for o in shown)
            lines.append(f"| {fault} | {row.total():,} | {counts} | {' | '.join(str(row[o]) for o in BAD)} |")
        return "\n".join(lines)
