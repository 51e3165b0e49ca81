"""Runs and grids that are killed, fill the disk, or are not alone in their folder."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from uuid import uuid4

from faults.folders import SETTINGS, grid_folder, invoke
from faults.outcomes import DIFFERENT, LEFT, SAME, SENTENCE, TRACEBACK, Tally
from faults.processes import REFUSED, child, left, together
from restore_vlm.runtime import files
from restore_vlm.training import Progress, RunConfig, loop, run

LOGS = ("metrics.jsonl", "shift.jsonl")
LEARNED = "adapter.safetensors"
TRIED = 4
"""Starts of a killed run before one is left to end."""


def request(photos: Path, method: str = "restore", seed: int = 1) -> RunConfig:
    return RunConfig(
        data=str(photos), method=method, shots=2, seed=seed, precision="fp32", device="cpu", log_shift=True,
        settings=("training.epochs=3", "training.batch=2", "prompts.depth=2"),
    )  # fmt: skip


def train(
    photos: Path, out: Path, method: str = "restore", stop: Callable[[int], None] = lambda step: None
) -> None:
    """A short run with a checkpoint after every step."""
    loop.CHECKPOINT_SECONDS = 0.0
    run(request(photos, method), out, Progress(on_step=lambda done, total, metrics: stop(done)))


def bits(folder: Path) -> dict[str, bytes]:
    """What a run must end with, whatever happened to it."""
    return {name: (folder / name).read_bytes() for name in (LEARNED, *LOGS) if (folder / name).exists()}


def _killed_at_step(photos: Path, out: Path, method: str, random: Random) -> Callable[[], None]:
    step = random.randrange(1, 12)
    return lambda: train(
        photos, out, method, lambda done: done >= step and os.kill(os.getpid(), signal.SIGKILL)
    )


def _killed_while_writing(photos: Path, out: Path, method: str, random: Random) -> Callable[[], None]:
    def action() -> None:
        count, sync = random.randrange(1, 30), os.fsync

        def killing(handle: int) -> None:
            nonlocal count
            count -= 1
            if count == 0:
                os.ftruncate(handle, _written(handle, random))
                os.kill(os.getpid(), signal.SIGKILL)
            sync(handle)

        files.os.fsync = killing  # type: ignore[attr-defined]
        train(photos, out, method)

    return action


def _written(handle: int, random: Random) -> int:
    """How much of a file is there when its writer is killed; of a log all but a part of the last line."""
    size = os.fstat(handle).st_size
    whole = Path(f"/proc/self/fd/{handle}").readlink().suffix != ".part"
    return size - random.randrange(60) if whole else size * random.randrange(100) // 100


def kill_runs(place: Path, photos: Path, tally: Tally, count: int) -> None:
    """SIGKILL at a random step, in the middle of a write, at a random moment; then once more to the end."""
    random, whole = Random(0), {}
    methods = ("restore", "coop", "clip_lora", "tip_adapter_f", "promptsrc")
    for method in methods[: max(1, min(len(methods), count // 3))]:
        assert child(lambda m=method: train(photos, place / f"whole-{m}", m), place / "log") == 0, method  # type: ignore[misc]
        whole[method] = bits(place / f"whole-{method}")
    for number in range(count):
        method = list(whole)[number % len(whole)]
        out = place / f"killed-{number}"
        kind = number // len(whole) % 3
        for _ in range(random.randrange(1, TRIED)):
            if kind == 2:
                child(lambda m=method, o=out: train(photos, o, m), place / "log", random.uniform(0.05, 1.5))  # type: ignore[misc]
            else:
                way = (_killed_at_step, _killed_while_writing)[kind]
                child(way(photos, out, method, random), place / "log")
        name = ("SIGKILL at a step", "SIGKILL in the middle of a write", "SIGKILL at a moment")[kind]
        _finish(
            place, lambda m=method, o=out: train(photos, o, m), out, whole[method], tally, f"`train`: {name}"
        )  # type: ignore[misc]
        shutil.rmtree(out, ignore_errors=True)


def _finish(
    place: Path, action: Callable[[], None], out: Path, whole: dict[str, bytes], tally: Tally, fault: str
) -> None:
    code = child(action, place / "log")
    if code != 0:
        tally.add(fault, TRACEBACK, f"it does not go on: {(place / 'log').read_text()[-2000:]}")
    else:
        tally.add(fault, SAME if bits(out) == whole else DIFFERENT, str(out))


def fill_disk(place: Path, photos: Path, tally: Tally, count: int) -> None:
    """A disk that is full at some moment: a small tmpfs where it may be mounted, else a limit on files."""
    random = Random(1)
    assert child(lambda: train(photos, place / "whole"), place / "log") == 0
    whole = bits(place / "whole")
    size = sum(p.stat().st_size for p in (place / "whole").iterdir())
    for number in range(count):
        limit = random.randrange(1000, size)
        disk = place / f"disk-{number}"
        disk.mkdir()
        mounted = number % 2 == 0 and _mount(disk, limit)
        if mounted:
            code = child(lambda d=disk: train(photos, d / "run"), place / "log")  # type: ignore[misc]
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        else:
            code = child(lambda d=disk, most=limit: _limited(most, photos, d / "run"), place / "log")  # type: ignore[misc]
        fault = "`train`: full disk" + ("" if mounted else ", by a limit on files")
        said = (place / "log").read_text()
        if code not in (0, REFUSED) or (code == REFUSED and "Cannot write" not in said):
            tally.add(fault, TRACEBACK, said[-2000:])
        else:
            _finish(place, lambda d=disk: train(photos, d / "run"), disk / "run", whole, tally, fault)  # type: ignore[misc]
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)
        shutil.rmtree(disk)


def _limited(most: int, photos: Path, out: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    train(photos, out)


def _mount(place: Path, size: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def share_folders(place: Path, photos: Path, root: Path, tally: Tally, count: int) -> None:
    """Two processes that train into, test or run a grid in one folder at the same time."""
    assert child(lambda: train(photos, place / "whole"), place / "log") == 0
    whole = bits(place / "whole")
    for number in range(count):
        out = place / f"shared-{number}"
        actions = [lambda o=out: train(photos, o)] * 2  # type: ignore[misc]
        _shared(place, actions, tally, "two processes train into one folder")
        _finish(
            place, lambda o=out: train(photos, o), out, whole, tally, "two processes train into one folder"
        )  # type: ignore[misc]
    words = ["evaluate", str(place / "whole"), "--data", str(photos), "--device", "cpu"]
    for _ in range(count):
        _shared(place, [lambda: _said(words)] * 2, tally, "two processes test one run")
        json.loads((place / "whole" / "evaluation-all.json").read_text())
    for number in range(count):
        out = place / f"grids-{number}"
        _shared(place, [lambda o=out: grid_folder(root, o)] * 2, tally, "two grids in one folder")  # type: ignore[misc]


def _said(words: list[str]) -> None:
    outcome, said = invoke(words)
    if outcome != SAME:
        raise RuntimeError(said)


def _shared(place: Path, actions: list[Callable[[], None]], tally: Tally, fault: str) -> None:
    logs = [place / f"log-{i}" for i in range(len(actions))]
    for code, log in zip(together(list(actions), logs), logs, strict=True):
        outcome = {0: SAME, REFUSED: SENTENCE}.get(code, TRACEBACK)
        tally.add(fault, outcome, log.read_text()[-2000:])


STOPS = {
    "Ctrl-C": (signal.SIGINT, True),
    "SIGINT to the parent": (signal.SIGINT, False),
    "SIGTERM to the parent": (signal.SIGTERM, False),
    "SIGKILL to the parent": (signal.SIGKILL, False),
    "SIGHUP, its terminal closed": (signal.SIGHUP, True),
}


def stop_grids(place: Path, root: Path, tally: Tally, count: int) -> None:
    """A grid of two workers is stopped in every way: no process is left, and it goes on to the same table."""
    grid_folder(root, place / "whole")
    expected, random = _table(place / "whole"), Random(2)
    for name, (number, group) in STOPS.items():
        for trial in range(count):
            out, mark = place / f"{number}-{group}-{trial}", f"FAULTS={uuid4()}"
            fault = f"`bench`: {name}"
            process = _start(root, out, mark)
            _wait_for_workers(process, out, random)
            (os.killpg if group else os.kill)(process.pid, number)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                tally.add(fault, LEFT, "the parent itself does not end")
            alive = left(mark)
            for one in alive:
                os.kill(one, signal.SIGKILL)
            if alive:
                tally.add(fault, LEFT, f"{len(alive)} processes after {name}")
                continue
            code = child(lambda o=out: grid_folder(root, o), place / "log")  # type: ignore[misc]
            if code:
                tally.add(fault, TRACEBACK, (place / "log").read_text()[-2000:])
            else:
                tally.add(fault, SAME if _table(out) == expected else DIFFERENT, str(out))


def _start(root: Path, out: Path, mark: str) -> subprocess.Popen:
    words = ["bench", "base-to-novel", "--root", str(root), "--datasets", "photos", "--out", str(out),
             "--methods", "clip,ivlp", "--seeds", "1", "--shots", "2", "--workers", "2", "--threads", "1",
             "--precision", "fp32", "--device", "cpu", *SETTINGS]  # fmt: skip
    name, _, value = mark.partition("=")
    return subprocess.Popen(
        [sys.executable, "-m", "restore_vlm.cli", *words], env={**os.environ, name: value},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def _wait_for_workers(process: subprocess.Popen, out: Path, random: Random) -> None:
    """Until its workers are at work, and a random while more."""
    end = time.monotonic() + 120
    while not list(out.glob("runs/*")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.5))


def _table(out: Path) -> str:
    return invoke(["bench", "table", str(out), "--format", "csv"])[1]
