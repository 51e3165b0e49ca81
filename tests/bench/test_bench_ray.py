import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.bench_makers import SHORT, csv_of, request, run, trials
from restore_vlm.bench import Ray
from restore_vlm.errors import UserError

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'restore-vlm[ray]'")
ASKED = request("clip", "maple", "restore", settings=(*SHORT, "training.epochs=4"))
WANTED = trials("split", "plain", seeds=[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 << 20, "include_dashboard": False}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
    nodes.wait_for_nodes()
    yield nodes
    ray.shutdown()
    nodes.shutdown()


class Murderer:
    """Kills the first process that has got as far as a checkpoint, once."""

    def __init__(self, out: Path) -> None:
        self.out, self.killed = out, 0

    def __call__(self, jobs, out: Path, watch) -> None:
        import threading

        done = threading.Event()
        hunter = threading.Thread(target=self._hunt, args=(done,))
        hunter.start()
        try:
            Ray(address=ray.get_runtime_context().gcs_address)(jobs, out, watch)
        finally:
            done.set()
            hunter.join()

    def _hunt(self, done) -> None:
        while not done.is_set() and not self.killed:
            for checkpoint in self.out.glob("runs/*/model/checkpoint.safetensors"):
                folder = checkpoint.parent.parent
                if not self.killed and not (folder / "tests").exists():
                    self.killed = int((folder / ".lock").read_text())
                    os.kill(self.killed, signal.SIGKILL)
            time.sleep(0.01)


def test_a_worker_killed_in_the_middle_changes_nothing(root: Path, tmp_path: Path, cluster: Any) -> None:
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    assert len([n for n in ray.nodes() if n["Alive"]]) == 2
    engine = Murderer(tmp_path / "ray")
    assert run(root, tmp_path / "ray", WANTED, ASKED, engine) == {}
    assert engine.killed
    assert run(root, tmp_path / "here", WANTED, ASKED) == {}
    assert csv_of(tmp_path / "ray") == csv_of(tmp_path / "here")


def test_an_address_where_nothing_is(root: Path, tmp_path: Path) -> None:
    ray.shutdown()
    with pytest.raises(UserError, match=r"The Ray cluster 127\.0\.0\.1:1 cannot be reached"):
        run(root, tmp_path, trials(), request("clip"), Ray("127.0.0.1:1"))
