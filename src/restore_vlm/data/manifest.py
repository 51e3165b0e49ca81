"""Manifests: a CSV or JSON-lines file that lists images with their class."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restore_vlm.data.dataset import Dataset, Item
from restore_vlm.errors import UserError
from restore_vlm.runtime.files import is_file, parse_json, read_text

SUFFIXES = (".csv", ".jsonl", ".ndjson")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """One line of a manifest, checked."""

    line: int
    path: Path
    name: str
    split: str | None


def read_manifest(manifest: Path) -> Dataset:
    """Reads a manifest: columns or keys ``path`` (relative to it), ``class``, optionally ``split``.

    Raises:
        UserError: Naming file and line, if a row is not as it should be.
    """
    text = read_text(manifest)
    raw = _csv_rows(manifest, text) if manifest.suffix.lower() == ".csv" else _json_rows(manifest, text)
    rows = [_checked(manifest, line, fields) for line, fields in raw]
    if not rows:
        raise UserError(f"{manifest} lists no images; give each a row with its path and class.")
    for row in rows:
        if (row.split is None) != (rows[0].split is None):
            raise UserError(
                f"{manifest}, line {row.line}: some rows have a split and some have none; "
                "give every row one of train, val, test."
            )
    split = any(row.split in ("val", "test") for row in rows)
    classes = sorted({row.name for row in rows})
    label = {name: i for i, name in enumerate(classes)}
    _check_trained(manifest, rows)
    items: dict[str, list[Item]] = {part: [] for part in SPLITS}
    for row in rows:
        items[row.split or "train"].append(Item(row.path, label[row.name]))
    return Dataset(manifest.stem, classes, items["train"], items["test"], items["val"], split)


def _csv_rows(manifest: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        for column in ("path", "class"):
            if column not in header:
                raise UserError(
                    f"{manifest}, line 1: no column {column!r}; "
                    "the first line must name the columns: path,class or path,class,split."
                )
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(header):
                raise UserError(
                    f"{manifest}, line {reader.line_num}: {len(values)} values for {len(header)} columns; "
                    "quote values that contain commas."
                )
            yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{manifest}, line {reader.line_num}: not CSV ({error}); correct the line.") from None


def _json_rows(manifest: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            fields = parse_json(content)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise UserError(
                f"{manifest}, line {line}: not a JSON object; "
                'write {"path": ..., "class": ...} on one line.'
            )
        yield line, fields


def _checked(manifest: Path, line: int, fields: dict[str, Any]) -> Row:
    where = f"{manifest}, line {line}"
    values = {}
    for key in ("path", "class"):
        value = fields.get(key)
        if not isinstance(value, str) or not value.strip():
            problem = f"no {key!r}" if value is None else f"{key!r} is empty or not text"
            raise UserError(f"{where}: {problem}; give every image a path and a class.")
        values[key] = value.strip()
    split = fields.get("split")
    split = split.strip() if isinstance(split, str) else split
    if split not in (*SPLITS, None, ""):
        raise UserError(f"{where}: unknown split {split!r}; use one of train, val, test.")
    path = manifest.parent / values["path"]
    if not is_file(path):
        raise UserError(f"{where}: there is no file {path}; paths are relative to the manifest's folder.")
    return Row(line, path, values["class"], split or None)


def _check_trained(manifest: Path, rows: list[Row]) -> None:
    trained = {row.name for row in rows if row.split in ("train", None)}
    for row in rows:
        if row.name not in trained:
            raise UserError(
                f"{manifest}, line {row.line}: the class {row.name!r} has no row with split train; "
                "add one or remove the class."
            )
