"""Archives unpacked so that nothing lands outside the folder they are unpacked to."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from restore_vlm.errors import UserError

DAMAGED = (tarfile.ReadError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


def unpack(archive: Path, folder: Path, strip: str = "") -> None:
    """Unpacks a zip or tar archive.

    Args:
        archive: The file.
        folder: Where to; made if absent.
        strip: A folder of the archive: only what is in it is unpacked, as if it were the top.

    Raises:
        UserError: If the archive is damaged, leads out of the folder (absolute paths, ``..``,
            links to elsewhere, devices), or holds nothing of that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open("rb") as file:
            zipped = file.read(2) == b"PK"
        count = (_unzip if zipped else _untar)(archive, folder, strip)
    except DAMAGED:
        raise UserError(f"{archive} is not an archive, or damaged; remove it.") from None
    except tarfile.FilterError as error:
        raise UserError(f"{archive} is not safe to unpack ({error}); remove it.") from None
    except OSError as error:
        raise UserError(f"Cannot unpack {archive} to {folder}: {error.strerror or error}.") from None
    if not count:
        raise UserError(f"{archive} holds nothing{f' in {strip}' if strip else ''}; remove it.")


def _untar(archive: Path, folder: Path, strip: str) -> int:
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            name = _below(member.name, strip)
            if name is None:
                continue
            change: dict[str, str] = {"name": name}
            if member.islnk():
                change["linkname"] = _below(member.linkname, strip) or member.linkname
            tar.extract(member.replace(**change, deep=False), folder, filter="data")  # type: ignore[arg-type]
            count += 1
    return count


def _unzip(archive: Path, folder: Path, strip: str) -> int:
    count = 0
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            _check_member(archive, member)
            name = _below(member.filename, strip)
            if name is None:
                continue
            target = folder / name
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with content.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
            count += 1
    return count


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    """Refuses links and paths that leave the folder, on any system."""
    name = member.filename
    paths = (PurePosixPath(name), PureWindowsPath(name))
    outside = any(p.is_absolute() or p.drive or p.root or ".." in p.parts for p in paths)
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        problem = "leads out of the folder" if outside else "is a link"
        raise UserError(f"{archive} is not safe to unpack ({name!r} {problem}); remove it.")


def _below(name: str, strip: str) -> str | None:
    """A member's path below ``strip``, or None where it is not there."""
    plain = name.removeprefix("./")
    if not strip:
        return plain or None
    top = strip.rstrip("/") + "/"
    return plain.removeprefix(top) or None if plain.startswith(top) else None
