"""Paths a user hands over, and lists in sentences."""

from __future__ import annotations

from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether the path is a file; impossible paths are not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether the path is a folder; impossible paths are not."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def listing(names: list[str], most: int = 10) -> str:
    """The names joined by commas, at most ``most`` of them: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
