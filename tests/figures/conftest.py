from pathlib import Path

import pytest

from bench.bench_makers import make_root, request, run, trials

METHODS = ("clip", "coop", "vpt", "lpt", "ivlp", "ivlp_fs", "maple", "restore")
VARIANTS = (
    "surgery=none",
    "losses.feature_shift=none",
    "losses.feature_shift.measure=embedding",
    "losses.feature_shift.weight=3",
    "training.lr=0.03",
)
FAST = ("surgery=none", "losses.feature_shift=none")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="session")
def grid(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, one seed, all methods of the claims with the recipes of the mini benchmark, and variants
    of one of them."""
    out = tmp_path_factory.mktemp("grid")
    wanted = trials("split", "plain")
    assert not run(root, out, wanted, request(*METHODS, settings=()))
    for changed in VARIANTS:
        assert not run(root, out, wanted, request("restore", settings=(changed,)))
    for changed in FAST:
        assert not run(root, out, wanted, request("restore", settings=(changed, "training.lr=0.03")))
    return out
