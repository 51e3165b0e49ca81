"""Child processes that end with the process that started them, however that ends.

Nothing here imports torch: a child must be bound to its parent before anything that takes time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import parent_process
from typing import Any

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.5


def end_with_parent(*_: object) -> None:
    """Makes this process end when its parent does, by whatever cause: an exception, a signal, SIGKILL.

    On Linux the kernel sees to it, by ``prctl(PR_SET_PDEATHSIG)``; it counts the end of the thread that
    started this process as well. Elsewhere a thread waits for the pipe that the parent holds open, or,
    where this process was not started by multiprocessing, looks whether it has been handed on.
    Takes and ignores what initialisers are called with.
    """
    parent = parent_process()
    before = os.getppid()
    if _signal_at_death():
        if parent is not None and os.getppid() != parent.pid:  # it ended before the kernel was told
            os._exit(1)
        return
    gone = (lambda: _pipe_closed(parent.sentinel)) if parent else (lambda: _handed_on(before))
    threading.Thread(target=_watch, args=(gone,), daemon=True).start()


def run_in_child(target: str, *args: Any) -> None:
    """What a child does that :mod:`multiprocessing` starts: binds itself, then imports and calls.

    Ctrl-C in a terminal reaches parent and children alike; the parent decides what comes of it.

    Args:
        target: ``module:function``, imported only here.
        *args: Of the function; their types should be cheap to import.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    module, _, name = target.partition(":")
    getattr(import_module(module), name)(*args)


def _signal_at_death() -> bool:
    """Whether the kernel has agreed to kill this process at its parent's death."""
    if sys.platform != "linux":
        return False
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0


def _pipe_closed(sentinel: int) -> None:
    wait([sentinel])


def _handed_on(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)


def _watch(gone: Callable[[], None]) -> None:
    gone()
    os._exit(1)
