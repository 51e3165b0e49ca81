import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from restore_vlm import cli
from restore_vlm.errors import UserError
from restore_vlm.method import TrainingConfig
from restore_vlm.runtime.processes import World, join
from restore_vlm.training import RunFolder, read_tensors, run
from restore_vlm.training.loop import share_of_batch
from runtime.process_makers import ENDINGS, left_behind, wait_for
from runtime.process_makers import start as begin
from runtime.two_processes import RUNS, SEARCHING, STOP, request, results

TESTS = Path(__file__).parents[1]
CPU = torch.device("cpu")


def start(photos: Path, out: Path, *jobs: str) -> list[tuple[int, str]]:
    """Exit code and error stream of two processes that do ``jobs`` together, the first one's first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    both = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "runtime.two_processes", str(photos), str(out), *jobs]
        environment = {**os.environ, **place, **meet, "PYTHONPATH": path}
        both.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        told = [process.communicate(timeout=600)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    return [(process.returncode, text) for process, text in zip(both, told, strict=True)]


@pytest.fixture(scope="module")
def together(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """What two processes leave, of which the second was killed in the last run."""
    out = tmp_path_factory.mktemp("together")
    return out, start(photos, out, "train", "killed")


@pytest.fixture(scope="module")
def resumed(photos: Path, together: tuple[Path, Any]) -> tuple[Path, list[tuple[int, str]]]:
    """The same folder, where the run killed was resumed and others refused."""
    return together[0], start(photos, together[0], "again", "explode", "claimed", "indivisible")


@pytest.fixture(scope="module", params=RUNS)
def alone(
    request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, Any]]:
    """A run of one process: its name, its folder and its results."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    trained = run(one(photos, request.param), folder / "run")
    return request.param, folder / "run", results(trained, photos)


one = request


def metrics(folder: Path) -> list[dict[str, float]]:
    return RunFolder(folder).read_metrics()


def difference(a: Path, b: Path) -> float:
    """The largest, over tensors, of the norm of their difference relative to their norm."""
    ours, theirs = read_tensors(a)[0], read_tensors(b)[0]
    assert ours.keys() == theirs.keys()
    pairs = [(ours[n].double(), theirs[n].double()) for n in ours]
    return max(float((x - y).norm() / y.norm().clamp(min=1e-12)) for x, y in pairs)


def test_losses_and_weights_are_those_of_one_process(alone: tuple, together: tuple) -> None:
    name, folder, _ = alone
    ours, theirs = metrics(together[0] / name), metrics(folder)
    assert len(ours) == len(theirs) == (0 if name == "probe" else 9)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(expected, rel=1e-5)
    file = "adapter.safetensors"
    assert difference(together[0] / name / file, folder / file) < 1e-5


def test_all_processes_hold_the_same(alone: tuple, together: tuple) -> None:
    first, second = (together[0] / f"{alone[0]}-{rank}.safetensors" for rank in (0, 1))
    assert first.read_bytes() == second.read_bytes()


def test_settings_and_comparison_are_those_of_one_process(alone: tuple, together: tuple) -> None:
    name, _, expected = alone
    assert bool(expected["compared"]) is bool(expected["chosen"]) is (name in SEARCHING)
    for rank in (0, 1):
        found = json.loads((together[0] / f"{name}-{rank}.json").read_text())
        assert {key: found[key] for key in ("compared", "chosen")} == {
            key: expected[key] for key in ("compared", "chosen")
        }


def test_every_image_counts_once(alone: tuple, together: tuple) -> None:
    name, _, expected = alone
    for rank in (0, 1):
        found = json.loads((together[0] / f"{name}-{rank}.json").read_text())
        for mine, theirs in zip(found["figures"], expected["figures"], strict=True):
            for mine_bin, bin_ in zip(mine.pop("reliability"), theirs["reliability"], strict=True):
                assert mine_bin == pytest.approx(bin_, rel=1e-5)
            for key in ("calibration_error", "true_probability"):
                assert mine.pop(key) == pytest.approx(theirs[key], rel=1e-5)
            assert mine == {k: v if k != "interval" else list(v) for k, v in theirs.items() if k in mine}
        ours, theirs = torch.tensor(found["probabilities"]), torch.tensor(expected["probabilities"])
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_process_killed(together: tuple, resumed: tuple) -> None:
    (code, said), (dead, _) = together[1]
    assert (code, dead) == (1, -signal.SIGKILL)
    assert "Another process of this run stopped or cannot be reached" in said
    for rank in (0, 1):
        steps = json.loads((resumed[0] / f"again-{rank}.json").read_text())
        assert steps[0] in (STOP, STOP + 1)
        assert steps[-1] == 9
    for file in ("adapter.safetensors", "metrics.jsonl"):
        whole, killed = (resumed[0] / run / file for run in ("prompt", "killed"))
        assert whole.read_bytes() == killed.read_bytes()


def test_a_loss_that_is_not_finite_stops_all(resumed: tuple) -> None:
    said = {(resumed[0] / f"explode-{rank}.txt").read_text() for rank in (0, 1)}
    assert len(said) == 1
    assert said.pop().startswith("Training stopped at step")


def test_a_folder_of_another_run(resumed: tuple) -> None:
    for rank in (0, 1):
        assert "another run.seed" in (resumed[0] / f"claimed-{rank}.txt").read_text()


def test_a_batch_that_does_not_divide(resumed: tuple) -> None:
    (code, said), (other, echo) = resumed[1]
    assert (code, other) == (2, 2)
    sentence = "Error: A batch of 3 images does not divide among 2 processes; use --set training.batch=2"
    assert sentence in said
    assert f"{sentence} or fewer processes. (process 1 of 2)" in echo
    assert not (resumed[0] / "indivisible").exists()


def test_one_process_needs_no_accelerate(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    run(request(photos, "prompt", more=("training.epochs=1",)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"pip install 'restore-vlm\[accelerate\]'"):
        join(CPU)


def test_more_processes_than_images_in_a_batch() -> None:
    world = World()
    world.size = 4
    assert world.part(8) == 2
    with pytest.raises(UserError, match=r"A batch of 3 images .* 4 processes; use fewer processes\."):
        world.part(3)


def test_a_last_batch_that_is_kept_and_does_not_divide() -> None:
    world = World()
    world.size = 2
    kept = TrainingConfig(batch=4, keep_last=True)
    assert share_of_batch(kept, 10, world) == share_of_batch(TrainingConfig(batch=4), 9, world) == 2
    with pytest.raises(UserError, match=r"last batch of an epoch has 1 images.* training\.keep_last=false"):
        share_of_batch(kept, 9, world)


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ("mps", "use --device cpu"),
        ("cuda:1", "use --device cuda"),
        ("cuda", "There are 3 processes for 2 GPUs; start at most 2"),
    ],
)
def test_devices_that_processes_cannot_share(
    device: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=problem):
        join(torch.device(device))


def test_commands_that_are_not_shared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["restore-vlm", "methods"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "Several processes share train and evaluate only" in capsys.readouterr().err


def test_processes_end_with_their_launcher(tmp_path: Path) -> None:
    code = (
        "import os, sys, time, torch; from pathlib import Path; from restore_vlm.training import join\n"
        "join(torch.device('cpu')); Path(sys.argv[1], os.environ['RANK']).touch(); time.sleep(10_000)\n"
    )
    (tmp_path / "joins.py").write_text(code)
    (tmp_path / "ranks").mkdir()
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    launcher = begin(*launch, str(tmp_path / "joins.py"), str(tmp_path / "ranks"))
    wait_for(lambda: len(list((tmp_path / "ranks").iterdir())) == 2, launcher)
    assert left_behind(launcher, ENDINGS["killed"]) == []
