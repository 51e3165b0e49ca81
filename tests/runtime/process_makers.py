"""Programs that start others, and ways in which they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

TESTS = Path(__file__).parent
PATIENCE = 60
"""Seconds after which a process counts as left behind."""

ENDINGS: dict[str, Callable[[subprocess.Popen], None]] = {
    "killed": lambda p: p.send_signal(signal.SIGKILL),
    "terminated": lambda p: p.send_signal(signal.SIGTERM),
    "terminal closed": lambda p: os.killpg(p.pid, signal.SIGHUP),
    "Ctrl-C": lambda p: os.killpg(p.pid, signal.SIGINT),
    "Ctrl-C for the parent alone": lambda p: p.send_signal(signal.SIGINT),
}


def start(*command: str, errors: int | None = subprocess.DEVNULL) -> subprocess.Popen:
    """A program in a process group of its own, as a terminal starts it."""
    path = os.pathsep.join([str(TESTS), str(TESTS / "bench"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command], env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=errors,
    )  # fmt: skip


def wait_for(condition: Callable[[], object], parent: subprocess.Popen) -> None:
    """Until something is so; a program that ends before is a failure."""
    end = time.monotonic() + 2 * PATIENCE
    while not condition():
        assert parent.poll() is None, f"ended with {parent.returncode}"
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def left_behind(parent: subprocess.Popen, end: Callable[[subprocess.Popen], None]) -> list[str]:
    """Ends a program; the command lines of those it had started that do not end with it."""
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    end(parent)
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    names = [" ".join(process.cmdline()) for process in alive]
    for process in alive:
        process.kill()
    parent.wait()
    return names
