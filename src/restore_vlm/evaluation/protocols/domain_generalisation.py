"""Training on all classes of one domain, tests on it and on its shifted variants (arXiv 2203.05557)."""

from __future__ import annotations

from restore_vlm.evaluation.protocol import ACCURACY, BY_DATASET, Protocol, Transfer
from restore_vlm.method.choice import VARIANTS

PROTOCOL = Protocol(
    name="domain-generalisation",
    summary="Train on one domain, test on its shifted variants; ROOT may be a folder of domains.",
    trained="all",
    tested=("all",),
    recipes=("cross_dataset", "domain_generalisation"),
    layout=BY_DATASET,
    measures=(ACCURACY,),
    transfer=Transfer(VARIANTS, source="Domains trained on, one after the other: a,b,..."),
)
