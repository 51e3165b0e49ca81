"""Lists in sentences."""

from __future__ import annotations


def listing(names: list[str], most: int = 10) -> str:
    """The names joined by commas, at most ``most`` of them: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
