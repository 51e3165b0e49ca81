"""Children that are killed, and whether any process is left."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from restore_vlm.errors import UserError

PATIENCE = 15.0
"""Seconds in which processes have to be gone."""
REFUSED, BROKEN = 2, 3


def child(action: Callable[[], object], log: Path, kill_after: float | None = None) -> int:
    """Runs an action in a forked process that has everything imported already.

    Args:
        action: What to do.
        log: Gets what it says, and its traceback.
        kill_after: Seconds until it is killed; None lets it end.

    Returns:
        0, 2 for a UserError, 3 for another exception, or -9.
    """
    process = _start(action, log)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    return os.waitstatus_to_exitcode(status)


def together(actions: list[Callable[[], object]], logs: list[Path]) -> list[int]:
    """Runs actions at the same time, each in a process; their exit codes."""
    processes = [_start(action, log) for action, log in zip(actions, logs, strict=True)]
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def _start(action: Callable[[], object], log: Path) -> int:
    process = os.fork()
    if process == 0:
        sys.stdout = sys.stderr = log.open("w")
        os._exit(_guarded(action))
    return process


def _guarded(action: Callable[[], object]) -> int:
    code = 0
    try:
        action()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        code = REFUSED
    except BaseException:
        traceback.print_exc()
        code = BROKEN
    sys.stderr.flush()
    return code


def marked(mark: str) -> list[int]:
    """Processes that have ``mark`` among their environment variables."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                alive = "\nState:\tZ" not in (place / "status").read_text()
                if alive and mark.encode() in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except OSError:
                continue
    return found


def left(mark: str) -> list[int]:
    """Those that are still there after :data:`PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while (found := marked(mark)) and time.monotonic() < end:
        time.sleep(0.2)
    return found
