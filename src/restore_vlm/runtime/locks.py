"""Locks between processes that the system lets go of when their holder dies, however it dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from restore_vlm.errors import UserError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no advisory locks
    fcntl = None  # type: ignore[assignment]

_handles: set[int] = set()
"""Held by this process; one forked from it would hold them on after its death."""


def hold(handle: int, wait: bool) -> bool:
    """Locks an open file or folder until it is closed.

    Args:
        handle: Of the file.
        wait: Whether to wait for another holder or to give up.

    Returns:
        Whether no other process holds it; True also where the system or the disk knows no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # some network disks
        return True
    return True


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds a lock that is a file with the number of the process in it.

    Args:
        path: The lock's file.
        wait: Whether to wait for another holder or to give up.

    Raises:
        UserError: If another process holds it, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"Cannot write {path.parent}: {error.strerror}; choose another --out.") from None
    with _closing(handle):
        if not hold(handle, wait):
            holder = os.read(handle, 20).decode(errors="replace").strip() or "another"
            raise UserError(
                f"Process {holder} is writing to {path.parent}; wait for it or choose another --out."
            )
        with suppress(OSError):  # a full disk; the lock is the handle
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
        yield


@contextmanager
def locked_folder(folder: Path, doing: str) -> Iterator[None]:
    """Holds a folder, without a file in it; it is made if it is not there.

    Args:
        folder: To hold.
        doing: What another process may be doing with it, such as ``training into``.

    Raises:
        UserError: If another process holds it, or it cannot be made.
    """
    if fcntl is None:  # pragma: no cover - Windows cannot open folders
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"Cannot write to {folder}: {error.strerror}; choose another.") from None
    with _closing(handle):
        if not hold(handle, wait=False):
            raise UserError(f"Another process is {doing} {folder}; wait until it has ended.")
        yield


@contextmanager
def _closing(handle: int) -> Iterator[None]:
    _handles.add(handle)
    try:
        yield
    finally:
        if handle in _handles:
            _handles.remove(handle)
            os.close(handle)


def _let_go() -> None:
    while _handles:
        os.close(_handles.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)
