"""A dataset of the catalogue from its publisher's server to its place under a root."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from restore_vlm.data.benchmark import Rows, read_split
from restore_vlm.data.catalogue.download import Progress, download
from restore_vlm.data.catalogue.entries import Download, Entry, dataset_entry
from restore_vlm.data.catalogue.unpack import unpack
from restore_vlm.errors import UserError
from restore_vlm.runtime.files import parse_json, read_text
from restore_vlm.runtime.locks import locked_folder

WORK = ".fetch"
"""Folder in a dataset's folder for what is not complete yet."""


def fetch(
    name: str,
    root: Path | str,
    again: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> bool:
    """Downloads what is missing of a dataset and puts it in its place.

    Each file is downloaded to a folder of its own, compared with its published checksum, unpacked
    beside its place and moved there at the end: what is in place is complete. Interrupted, the
    same call goes on where it was.

    Args:
        name: Name, title or folder of the dataset.
        root: The folder that holds the datasets' folders; made if absent.
        again: Whether to get also what is there, and replace its files.
        say: Called with sentences worth showing.
        progress: Called with the bytes of a file so far and of all.

    Returns:
        Whether there was anything that can be downloaded; if not, :meth:`Entry.instructions` say
        how to get the dataset.

    Raises:
        UserError: If a download fails, has the wrong checksum or is not safe to unpack.
    """
    entry = dataset_entry(name)
    if not entry.downloads:
        return False
    folder = Path(root).expanduser() / entry.folder
    with _working_folder(folder) as work:
        for item in entry.downloads:
            if (folder / item.makes).exists() and not again:
                say(f"{item.makes} is there already.")
                continue
            say(f"Getting {item.makes} from {item.url}")
            try:
                _get(entry, item, folder, work, progress)
            except UserError as error:
                if not item.optional:
                    raise
                say(f"{error} Without {item.makes}, {_without(entry, item)}.")
    return True


def _without(entry: Entry, item: Download) -> str:
    if item.makes == entry.split:
        return "a split is made by the published procedure at first use; it is not the published one"
    return "only the published split file can be used"


def _get(entry: Entry, item: Download, folder: Path, work: Path, progress: Progress | None) -> None:
    """Downloads one file and puts what it makes in its place, that last."""
    file = work / Path(item.makes).name if _is_plain(item) else work / item.url.rpartition("/")[2]
    if not file.exists():
        download(item.url, file, item.checksum, progress)
    place = work / "unpacked"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        if _is_plain(item):
            _check_plain(entry, item, file)
            file.replace(place / item.makes)
        else:
            unpack(file, place, item.strip)
            if item.inner:
                unpack(place / item.inner, place)
                (place / item.inner).unlink()
        if not (place / item.makes).exists():
            raise UserError(
                f"{item.url} does not hold {item.makes}; get it by hand (restore-vlm datasets fetch --how)."
            )
        _move(place, folder, last=item.makes)
    except (UserError, OSError) as error:
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"Cannot write to {folder}: {error.strerror or error}.") from None
        if not item.checksum:
            file.unlink(missing_ok=True)
        raise
    shutil.rmtree(place, ignore_errors=True)
    file.unlink(missing_ok=True)


def _is_plain(item: Download) -> bool:
    """Whether what is downloaded is the file itself, not an archive of it."""
    return item.makes.endswith((".json", ".mat"))


def _check_plain(entry: Entry, item: Download, file: Path) -> None:
    """Refuses web pages in place of files without a checksum.

    Raises:
        UserError: If a JSON file is none, or a split file is not what it should be.
    """
    if not item.makes.endswith(".json"):
        return
    try:
        parse_json(read_text(file))
        if item.makes == entry.split:
            _: Rows = read_split(file)
    except (UserError, ValueError):
        raise UserError(
            f"{item.url} gave something else than {item.makes}; "
            "get it by hand (restore-vlm datasets fetch --how)."
        ) from None


def _move(source: Path, target: Path, last: str) -> None:
    """Moves all that is in ``source`` into ``target``, replacing files; ``last`` goes last."""
    for found in sorted(source.iterdir(), key=lambda f: (f.name == last, f.name)):
        place = target / found.name
        if found.is_dir() and place.is_dir():
            _move(found, place, last="")
        else:
            found.replace(place)


@contextmanager
def _working_folder(folder: Path) -> Iterator[Path]:
    """The folder for what is not complete yet, for one process at a time; removed when empty.

    Raises:
        UserError: If it cannot be made, or another process uses it.
    """
    work = folder / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {error.strerror or error}; choose another --root."
        ) from None
    with locked_folder(folder, "fetching to"):
        yield work
        with suppress(OSError):
            work.rmdir()
