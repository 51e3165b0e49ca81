"""Keeping freed memory in the process for a while."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
GLIBC = {M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 128 << 10, M_TOP_PAD: 128 << 10}
"""What glibc starts with (mallopt(3))."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Tells glibc to keep freed blocks for the next step instead of giving them back.

    Every activation of a step is freed and asked for again; fresh pages from the system cost
    more than the arithmetic on small models. Afterwards the allocator is as it starts, but for
    one thing that cannot be undone: glibc no longer adapts its thresholds by itself. Does nothing where the C
    library is not glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    assert libc is not None
    _set(libc, KEPT)
    try:
        yield
    finally:
        _set(libc, GLIBC)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)
