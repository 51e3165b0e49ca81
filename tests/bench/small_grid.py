"""A small real grid that figures, claims and the command line are tested on."""

from pathlib import Path

from bench.bench_makers import request, run, trials

METHODS = ("clip", "coop", "vpt", "lpt", "ivlp", "ivlp_fs", "maple", "restore")
VARIANTS = (
    "surgery=none",
    "losses.feature_shift=none",
    "losses.feature_shift.measure=embedding",
    "losses.feature_shift.weight=3",
    "training.lr=0.03",
)
FAST = ("surgery=none", "losses.feature_shift=none")


def run_small_grid(root: Path, out: Path) -> None:
    """Two datasets, one seed, all methods of the claims with the recipes of the mini benchmark, and variants
    of one of them."""
    wanted = trials("split", "plain")
    assert not run(root, out, wanted, request(*METHODS, settings=()))
    for changed in VARIANTS:
        assert not run(root, out, wanted, request("restore", settings=(changed,)))
    for changed in FAST:
        assert not run(root, out, wanted, request("restore", settings=(changed, "training.lr=0.03")))
