"""One file from the net: resumed where it stopped, kept only if its checksum is right."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from restore_vlm.errors import UserError
from restore_vlm.runtime.files import is_file, read_text

TRIES = 4
TIMEOUT = 60
PAUSE = 2.0
"""Seconds before the second try; doubled before each further one."""

CHUNK = 1 << 20

Progress = Callable[[int, int], None]
"""Called with bytes so far and of all (0 where the server does not say)."""


class _Interrupted(Exception):
    """The transfer stopped early; what came is kept."""


def download(url: str, target: Path, checksum: str = "", progress: Progress | None = None) -> None:
    """Downloads a file; an interrupted download goes on where it was, in this run or the next.

    Args:
        url: http or https.
        target: Where to; ``<target>.part`` and ``<target>.tag`` beside it hold what came so far.
        checksum: ``md5:HEX`` or ``sha256:HEX``, or empty to accept anything.
        progress: Called after each megabyte.

    Raises:
        UserError: If the server refuses, the transfer keeps stopping, the file cannot be written,
            or the checksum is wrong (the file is then removed).
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url} is not an http or https address; correct it.")
    part = target.with_name(target.name + ".part")
    _open(part, "ab").close()
    for attempt in range(1, TRIES + 1):
        try:
            _transfer(url, part, progress or (lambda done, total: None))
            break
        except _Interrupted as error:
            if attempt == TRIES:
                done = part.stat().st_size if is_file(part) else 0
                raise UserError(
                    f"{url} stopped after {done:,} bytes ({error}); the same command goes on from there."
                ) from None
            time.sleep(PAUSE * 2 ** (attempt - 1))
    _verify(url, part, checksum)
    part.replace(target)
    _tag(part).unlink(missing_ok=True)


def _transfer(url: str, part: Path, progress: Progress) -> None:
    """Appends what is missing of a file; from the start where the server cannot resume."""
    try:
        start = part.stat().st_size if is_file(part) else 0
        request = urllib.request.Request(url, headers={"User-Agent": "restore-vlm"})
        if start:
            request.add_header("Range", f"bytes={start}-")
            if version := _version(part):
                request.add_header("If-Range", version)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:
                start = 0
            elif _range_start(response) != start:
                part.unlink(missing_ok=True)
                raise _Interrupted("the server resumed elsewhere")
            length = int(response.headers.get("Content-Length") or 0)
            _write(response, part, start, length + start if length else 0, progress)
    except urllib.error.HTTPError as error:
        _refused(url, part, error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Interrupted(_why(error)) from None


def _write(response: Any, part: Path, start: int, total: int, progress: Progress) -> None:
    """Writes a response from byte ``start`` on."""
    free = shutil.disk_usage(part.parent).free
    if total - start > free:
        needed = f"{(total - start) / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free"
        raise UserError(f"{part} needs {needed}; make room or choose another --root.")
    etag = response.headers.get("ETag", "")
    done = start
    with _open(part, "ab" if start else "wb") as file:
        if not start:
            _tag(part).unlink(missing_ok=True)
            if etag.startswith('"') and etag.isascii():
                _tag(part).write_text(etag, encoding="ascii")
        while chunk := response.read(CHUNK):
            try:
                file.write(chunk)
            except OSError as error:
                raise _unwritable(part, error) from None
            done += len(chunk)
            progress(done, total)
    if done < total:
        raise _Interrupted(f"{total - done:,} bytes are missing")


def _refused(url: str, part: Path, error: urllib.error.HTTPError) -> None:
    """What an error answer means; nothing where the file turns out to be complete.

    Raises:
        UserError: If it is final.
        _Interrupted: If another try may help.
    """
    if error.code == 416:
        complete = error.headers.get("Content-Range", "").removeprefix("bytes */")
        if is_file(part) and complete == str(part.stat().st_size):
            return
        part.unlink(missing_ok=True)
        raise _Interrupted("the server has another file now") from None
    if error.code in (408, 429) or error.code >= 500:
        raise _Interrupted(f"the server answers {error.code}") from None
    raise UserError(
        f"{url} cannot be had (the server answers {error.code} {error.reason}); "
        "get it by hand (restore-vlm datasets fetch --how)."
    ) from None


def _verify(url: str, part: Path, checksum: str) -> None:
    if not checksum:
        return
    kind, _, expected = checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with _open(part, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        part.unlink(missing_ok=True)
        _tag(part).unlink(missing_ok=True)
        raise UserError(
            f"{url} has the {kind} {digest.hexdigest()}, not the published {expected}, and was removed; "
            "run the command again, and if that recurs, get the file by hand "
            "(restore-vlm datasets fetch --how)."
        )


def _open(path: Path, mode: str) -> BinaryIO:
    try:
        return path.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"Cannot write {path}: {error.strerror or error}; make room or choose another --root.")


def _tag(part: Path) -> Path:
    """Where the server's name for the version of a part is kept."""
    return part.with_suffix(".tag")


def _version(part: Path) -> str:
    """The server's name for the version of a part; empty where there is none."""
    with suppress(UserError):
        tag = read_text(_tag(part))
        return tag if tag.isascii() and tag.isprintable() else ""
    return ""


def _range_start(response: Any) -> int:
    with suppress(ValueError):
        return int(response.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0])
    return -1


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)
