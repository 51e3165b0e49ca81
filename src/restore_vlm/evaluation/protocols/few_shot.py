"""Training and tests on all classes, with more and more shots (arXiv 2109.01134)."""

from __future__ import annotations

from restore_vlm.evaluation.protocol import ACCURACY, Column, Layout, Protocol
from restore_vlm.method.choice import SHOTS

PROTOCOL = Protocol(
    name="few-shot",
    summary="Train and test on all classes with more and more images.",
    trained="all",
    tested=("all",),
    recipes=("few_shot",),
    layout=Layout(("source",), (Column(ACCURACY, each="shots"),), average=True),
    measures=(ACCURACY,),
    shots=SHOTS,
)
