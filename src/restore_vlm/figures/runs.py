"""The measured values of every run: what claims are computed from, and the CSV that keeps them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean
from typing import Any

from restore_vlm.errors import UserError
from restore_vlm.figures.numbers import ZERO, halves, variants
from restore_vlm.figures.records import Record
from restore_vlm.runtime.files import read_text, write_atomic

FILE = "runs.csv"


@dataclass(frozen=True)
class Run:
    """What claims need of one run on one half of its classes.

    Attributes:
        method: Its name.
        changed: What was changed of the method, ``KEY=VALUE`` separated by spaces; empty as it is.
        dataset: Trained and tested on.
        part: ``base`` or ``novel``.
        seed: Of the run.
        accuracy: In %.
        discrepancy: Inter-modal discrepancy of feature shift, summed over blocks; None where not measured.
        matching: Change of the mean cosine of matching pairs; None where not measured.
        text: Relative shift of the text tower, mean over blocks; None where not measured.
        image: The same of the image tower.
    """

    method: str
    changed: str
    dataset: str
    part: str
    seed: int
    accuracy: float
    discrepancy: float | None = None
    matching: float | None = None
    text: float | None = None
    image: float | None = None


COLUMNS = tuple(field.name for field in fields(Run))


def runs_of(records: Iterable[Record]) -> list[Run]:
    """Base-to-novel runs, of methods as they are and of their variants.

    Raises:
        UserError: Where :func:`restore_vlm.figures.numbers.halves` does.
    """
    records = list(records)
    found = [_run(r, "") for r in halves(records)]
    for (_, changed), own in variants(records).items():
        found += [_run(r, " ".join(changed)) for r in own]
    return found


def _run(record: Record, changed: str) -> Run:
    shift = record.shift
    known = record.method, changed, record.dataset, record.part, record.seed, record.accuracy
    if shift is None:
        return Run(*known)
    return Run(
        *known,
        shift["total_discrepancy"],
        shift["after"]["matching"] - shift["before"]["matching"],
        *(_over_blocks(shift[tower]) for tower in ("text", "image")),
    )


def _over_blocks(blocks: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean relative shift; None of a tower that shows no blocks."""
    return mean(block["relative"]["mean"] for block in blocks) if blocks else None


def zero_shot(runs: Sequence[Run]) -> dict[tuple[str, str, int], float]:
    """Accuracy in % of zero-shot CLIP by dataset, half and seed.

    Where data has no split the test images depend on the seed. A seed without zero-shot has its mean over
    the others.

    Raises:
        UserError: If it is not among the runs.
    """
    own: dict[tuple[str, str], dict[int, float]] = {}
    for r in runs:
        if r.method == ZERO:
            own.setdefault((r.dataset, r.part), {})[r.seed] = r.accuracy
    if not own:
        raise UserError(f"Gains are over zero-shot, which is not among the runs; add the method {ZERO}.")
    return {
        (r.dataset, r.part, r.seed): seeds.get(r.seed, mean(seeds.values()))
        for r in runs
        if (seeds := own.get((r.dataset, r.part)))
    }


def write_runs(runs: Sequence[Run], path: Path) -> None:
    """Writes one line per run, in full precision; not measured is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(run) for run in runs)
    write_atomic(path, text.getvalue())


def read_runs(path: Path) -> list[Run]:
    """The runs of a file that :func:`write_runs` wrote.

    Raises:
        UserError: If there is no such file, or a line of it cannot be read.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path))))
    except (UserError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read ({error}); make it with python -m studies.restore write --grid GRID."
        ) from None
    found = []
    for line, row in enumerate(rows, start=2):
        try:
            method, changed, dataset, part, seed, accuracy = (row[name] for name in COLUMNS[:6])
            measured = [float(row[name]) if row[name] else None for name in COLUMNS[6:]]
            found.append(Run(method, changed, dataset, part, int(seed), float(accuracy), *measured))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {line}: {error}; its columns are {', '.join(COLUMNS)}.") from None
    if not found:
        raise UserError(f"{path} has no runs; make it with python -m studies.restore write --grid GRID.")
    return found
