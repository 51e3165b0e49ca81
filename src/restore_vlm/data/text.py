"""Reading the text files a user hands over."""

from __future__ import annotations

from pathlib import Path

from restore_vlm.errors import UserError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without its byte-order mark.

    Raises:
        UserError: If the file is absent, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}); check the path.") from None


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
