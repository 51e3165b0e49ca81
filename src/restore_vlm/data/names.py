"""Readable class names for class folders."""

from __future__ import annotations

import csv
from pathlib import Path

from restore_vlm.data.text import listing
from restore_vlm.errors import UserError, unknown
from restore_vlm.runtime.files import is_file, parse_json, read_text


def read_names(path: Path, folders: list[str]) -> list[str]:
    """Reads one readable name per class.

    Args:
        path: A text file with one name per line in the order of ``folders``, or a mapping from
            folder name to readable name: a ``.tsv`` or ``.csv`` (a header line is recognised) or
            a ``.json`` object.
        folders: Class folder names by label.

    Raises:
        UserError: If names are missing, too many, empty, or for folders that do not exist.
    """
    if not is_file(path):
        raise UserError(f"There is no file of class names {path}; check the path.")
    suffix = path.suffix.lower()
    if suffix not in (".tsv", ".csv", ".json"):
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        if len(lines) != len(folders):
            raise UserError(
                f"{path} has {len(lines)} names for {len(folders)} classes; "
                "give one per line, in the order of the class folders."
            )
        return lines
    pairs = _json_pairs(path) if suffix == ".json" else _table_pairs(path, "\t" if suffix == ".tsv" else ",")
    return _in_order(path, pairs, folders)


def _json_pairs(path: Path) -> list[tuple[str, str]]:
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); correct it.") from None
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise UserError(f'{path} is not a mapping of names; write {{"folder": "readable name", ...}}.')
    return [(folder, name.strip()) for folder, name in content.items()]


def _table_pairs(path: Path, separator: str) -> list[tuple[str, str]]:
    lines = read_text(path).splitlines()
    tabs = separator == "\t"
    reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
    pairs = []
    try:
        for row in reader:
            if not any(value.strip() for value in row):
                continue
            if len(row) != 2:
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} values; "
                    "each line needs a folder and its name."
                )
            pairs.append((row[0].strip(), row[1].strip()))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a table ({error}); correct the line.") from None
    return pairs


def _in_order(path: Path, pairs: list[tuple[str, str]], folders: list[str]) -> list[str]:
    if pairs and pairs[0][0] not in folders and {folder for folder, _ in pairs[1:]} >= set(folders):
        pairs = pairs[1:]  # a header
    names: dict[str, str] = {}
    for folder, name in pairs:
        if folder not in folders:
            raise unknown(f"class folder in {path}", folder, folders)
        if folder in names:
            raise UserError(f"{path} names the class folder {folder!r} twice; keep one.")
        if not name:
            raise UserError(f"{path} has an empty name for the class folder {folder!r}; fill it in.")
        names[folder] = name
    missing = [repr(folder) for folder in folders if folder not in names]
    if missing:
        raise UserError(f"{path} has no name for {listing(missing)}; it must name every class folder.")
    return [names[folder] for folder in folders]
