"""Files that are written to be read again: whole or not at all, with a checksum, checked when read.

Nothing else in the package reads or parses files, so that a damaged one is the same sentence everywhere.
Files of versions that wrote no checksums are read all the same.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tomllib
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import tomli_w
from pydantic import TypeAdapter, ValidationError

from restore_vlm.errors import UserError
from restore_vlm.runtime.locks import hold

SHA256 = "sha256"
"""Key of the checksum in JSON objects, and beginning of the last line in TOML files."""
CRC32 = "crc32"
"""Key of the checksum in each of JSON lines."""
LARGEST = 1 << 30
"""Bytes of a file that we wrote ourselves; one that is larger is not read."""


class DamagedFile(UserError):
    """A file of ours that is not as it was written."""

    @classmethod
    def because(cls, path: Path, reason: str, advice: str) -> DamagedFile:
        """The sentence about it; ``advice`` is its end."""
        return cls(f"{path} is damaged ({reason}); {advice}.")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes a file completely or not at all; of several processes, one after the other.

    Raises:
        UserError: If the folder cannot be written, the disk is full, or the text is not Unicode.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        data = content.encode() if isinstance(content, str) else content
        path.parent.mkdir(parents=True, exist_ok=True)
        with _own(part) as file:
            file.truncate(0)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
    except UnicodeEncodeError:
        raise UserError(f"Cannot write {path}: a name in it is not UTF-8; rename that file.") from None
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    way = "make room for it" if full else "choose another place"
    return UserError(f"Cannot write {path}: {error.strerror or error}; {way}.")


def _own(part: Path) -> BinaryIO:
    """Opens a file that is this process's alone; the one opened may meanwhile be another's finished file."""
    while True:
        file = part.open("ab")
        hold(file.fileno(), wait=True)
        with suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == part.stat().st_ino:
                return file
        file.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object with its checksum."""
    write_atomic(path, json.dumps(sealed(content), indent=2) + "\n")


def read_json(path: Path, kind: Any, advice: str) -> Any:
    """Reads what :func:`write_json` wrote.

    Args:
        path: The file.
        kind: The form of its content, as a type that pydantic knows; keys beyond it are let through.
        advice: What to do where it is absent or damaged, as the end of a sentence.

    Returns:
        The content as JSON has it, without the checksum.

    Raises:
        DamagedFile: If it is not what was written, or not of that form.
        UserError: If it is absent or cannot be read.
    """
    text = _text(path, advice)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DamagedFile.because(path, f"not JSON: {error}", advice) from None
    if not intact(content):
        raise DamagedFile.because(path, "its checksum does not fit", advice)
    if reason := misfit(content, kind):
        raise DamagedFile.because(path, reason, advice)
    return content


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum, which does not depend on the layout of the file.

    >>> sealed({"a": 1})
    {'a': 1, 'sha256': '015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862'}
    """
    return {**content, SHA256: _sha256(json.dumps(content, separators=(",", ":")))}


def intact(content: Any) -> bool:
    """Whether what was parsed is what was sealed, or never was; takes the checksum out."""
    if not isinstance(content, dict) or SHA256 not in content:
        return True
    found = content.pop(SHA256)
    return found == sealed(content)[SHA256]


def add_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Appends JSON lines, each with its checksum.

    Raises:
        UserError: If the file cannot be written or the disk is full.
    """
    text = "".join(map(_line, lines))
    if not text:
        return
    try:
        with path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines, each with its checksum."""
    write_atomic(path, "".join(map(_line, lines)))


def read_lines(path: Path, kind: Any, advice: str, count: str | None = None) -> list[dict[str, Any]]:
    """Reads what :func:`add_lines` wrote; a last line that a kill cut off is left out.

    Args:
        path: The file; one that is absent has no lines.
        kind: The form of each line, as a type that pydantic knows.
        advice: What to do where it is damaged, as the end of a sentence.
        count: Key of a number that grows by one from line to line.

    Returns:
        The lines without their checksums.

    Raises:
        DamagedFile: If a line is not what was written, not of that form, missing or there twice.
        UserError: If the file cannot be read.
    """
    found: list[dict[str, Any]] = []
    lines = _text(path, advice).splitlines(keepends=True) if os.path.lexists(path) else []
    for number, text in enumerate(lines, start=1):
        if number == len(lines) and _cut_off(text):
            break
        try:
            line = parse_json(text)
        except ValueError as error:
            raise DamagedFile.because(path, f"line {number} is not JSON: {error}", advice) from None
        if isinstance(line, dict) and CRC32 in line and line.pop(CRC32) != _crc32(json.dumps(line)):
            raise DamagedFile.because(path, f"the checksum of line {number} does not fit", advice)
        if reason := misfit(line, kind):
            raise DamagedFile.because(path, f"line {number}: {reason}", advice)
        if count and found and line[count] != found[-1][count] + 1:
            reason = f"{count} {line[count]} follows {found[-1][count]} in line {number}"
            raise DamagedFile.because(path, reason, advice)
        found.append(line)
    return found


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps({**content, CRC32: _crc32(json.dumps(content))}) + "\n"


def _crc32(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _cut_off(line: str) -> bool:
    """Whether a line is but the beginning of one."""
    if line.endswith("\n"):
        return False
    try:
        json.JSONDecoder().raw_decode(line)
    except (ValueError, RecursionError):
        return True
    return False


def write_toml(path: Path, table: Mapping[str, Any]) -> None:
    """Writes a TOML file; its last line is a comment with its checksum."""
    text = tomli_w.dumps(table)
    write_atomic(path, f"{text}# {SHA256} {_sha256(text)}\n")


def read_toml(path: Path, kind: Any, advice: str) -> dict[str, Any]:
    """Reads what :func:`write_toml` wrote, or a person; see :func:`read_json`."""
    text = _text(path, advice)
    *lines, last = text.splitlines(keepends=True) or [""]
    if last.startswith(f"# {SHA256} ") and last.split()[2:] != [_sha256("".join(lines))]:
        reason = "its checksum does not fit"
        raise DamagedFile.because(
            path, reason, f"{advice}, or remove its last line if you changed it yourself"
        )
    try:
        content = parse_toml(text)
    except ValueError as error:
        raise DamagedFile.because(path, f"not TOML: {error}", advice) from None
    if reason := misfit(content, kind):
        raise DamagedFile.because(path, reason, advice)
    return content


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def read_text(path: Path, advice: str = "check the path") -> str:
    """The text of a UTF-8 file that a person wrote, without its byte-order mark.

    Raises:
        UserError: If the file is absent, unreadable or not UTF-8.
    """
    try:
        text = read_bytes(path, advice).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: Path, advice: str, largest: int | None = None) -> bytes:
    """The content of a file.

    Raises:
        DamagedFile: If it is a folder or a device, or larger than ``largest`` bytes.
        UserError: If it is absent or cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no ordinary file"
            raise DamagedFile.because(path, f"it is {kind}", advice)
        if largest is not None and found.st_size > largest:
            raise DamagedFile.because(path, f"it has {found.st_size:,} bytes", advice)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"There is no {path.name} in {path.parent}; {advice}.") from None
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error or "it does not fit into memory"
        raise UserError(f"{path} cannot be read ({reason}); {advice}.") from None


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


def parse_json(text: str) -> Any:
    """The content of JSON.

    Raises:
        ValueError: If it is none, or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The content of TOML.

    Raises:
        ValueError: If it is none, or nested too deep.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def bundled(package: str, name: str) -> str:
    """The text of a file that comes with the package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _text(path: Path, advice: str) -> str:
    """Of a file of ours."""
    try:
        text = read_bytes(path, advice, LARGEST).decode()
    except UnicodeDecodeError:
        raise DamagedFile.because(path, "not UTF-8 text", advice) from None
    return text.replace("\r\n", "\n")


def misfit(content: Any, kind: Any) -> str:
    """Why content is not of the form of a type that pydantic knows; empty if it is."""
    try:
        # Names of files that are not Unicode are no reason to refuse.
        text = json.dumps(content, ensure_ascii=False).encode(errors="replace")
        _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "missing":
            return f"{where!r} is missing"
        return f"{where}: {problem['msg']}" if where else problem["msg"]
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    return ""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
