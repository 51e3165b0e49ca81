"""Training on all classes of one dataset, tests on it and on others with their own class names
(arXiv 2203.05557)."""

from __future__ import annotations

from restore_vlm.evaluation.protocol import ACCURACY, BY_DATASET, ELEVEN, Protocol, Transfer

PROTOCOL = Protocol(
    name="cross-dataset",
    summary="Train on all classes of one dataset, test on others with their own classes.",
    trained="all",
    tested=("all",),
    recipes=("cross_dataset",),
    layout=BY_DATASET,
    measures=(ACCURACY,),
    transfer=Transfer(tuple(name for name in ELEVEN if name != "imagenet")),
)
