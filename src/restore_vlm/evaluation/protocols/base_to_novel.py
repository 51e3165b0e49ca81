"""Training on the first half of each dataset's classes, tests on each half apart (arXiv 2203.05557)."""

from __future__ import annotations

from restore_vlm.evaluation.protocol import ELEVEN, Column, Layout, Measure, Protocol, Published, Term
from restore_vlm.evaluation.statistics import harmonic_mean

BASE = Measure("base", (Term("base"),))
NOVEL = Measure("novel", (Term("novel"),))
HM = Measure("HM", (Term("base"), Term("novel")), harmonic_mean)

PUBLISHED = Published(
    about="averages over 11 datasets, OpenAI's ViT-B/16, 16 shots, as printed in the publications",
    shots=16,
    datasets=ELEVEN,
    rows=(
        ("CLIP", "arXiv 2203.05557", (69.34, 74.22, 71.70)),
        ("CoOp", "arXiv 2203.05557", (82.69, 63.22, 71.66)),
        ("CoCoOp", "arXiv 2203.05557", (80.47, 71.69, 75.83)),
        ("KgCoOp", "arXiv 2303.13283", (80.73, 73.60, 77.00)),
        ("MaPLe", "arXiv 2210.03117", (82.28, 75.14, 78.55)),
        ("PromptSRC", "arXiv 2307.06948", (84.26, 76.10, 79.97)),
    ),
)

PROTOCOL = Protocol(
    name="base-to-novel",
    summary="Train on half of the classes, test on both halves.",
    trained="base",
    tested=("base", "novel"),
    recipes=("base_to_novel",),
    layout=Layout(("shots", "source"), (Column(BASE), Column(NOVEL), Column(HM)), average=True),
    measures=(HM, BASE, NOVEL),
    published=PUBLISHED,
)
