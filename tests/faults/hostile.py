"""Files of tensors with headers that nobody wrote by accident."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

from faults.folders import Reader, invoke, run_readers
from faults.outcomes import DIFFERENT, SAME, SENTENCE, TRACEBACK, Tally
from restore_vlm.runtime.tensors import HEADER, read_tensors, write_tensors

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
LENGTHS = (0, 1, 2**31, 2**40, 2**63, 2**64 - 1, 100_000_001)
TENSORS: dict[str, dict[str, Any]] = {
    "negative shape": {"a": ONE | {"shape": [-1]}},
    "shape that overflows": {"a": ONE | {"shape": [2**32, 2**32]}},
    "shape beyond 64 bits": {"a": ONE | {"shape": [2**80]}},
    "fractional shape": {"a": ONE | {"shape": [0.5]}},
    "a thousand dimensions": {"a": ONE | {"shape": [1] * 1000}},
    "giant dtype": {"a": ONE | {"dtype": "F4096"}},
    "dtype that is a number": {"a": ONE | {"dtype": 32}},
    "offsets beyond the file": {"a": ONE | {"data_offsets": [0, 2**62]}},
    "offsets backwards": {"a": ONE | {"data_offsets": [4, 0]}},
    "negative offsets": {"a": ONE | {"data_offsets": [-4, 0]}},
    "overlapping offsets": {"a": ONE, "b": ONE},
    "gap between offsets": {"a": ONE, "b": ONE | {"data_offsets": [6, 10]}},
    "three offsets": {"a": ONE | {"data_offsets": [0, 2, 4]}},
    "no offsets": {"a": {"dtype": "F32", "shape": [1]}},
    "a name of a megabyte": {"a" * 1_000_000: ONE},
    "a tensor that is a list": {"a": [1, 2]},
}
HEADERS: dict[str, str] = {
    "header not JSON": "{",
    "header nested deep": "[" * 100_000,
    "header null": "null",
    "header a list": "[1]",
    "header empty": "{}",
    "header with a number of 5,000 digits": '{"format": ' + "9" * 5000 + "}",
}


def files(tensors: dict, header: dict) -> dict[str, bytes | tuple[dict, dict]]:
    """Contents by what is wrong with them: bytes, or tensors and header that are properly written."""
    found: dict[str, Any] = {
        f"header of {n:,} bytes": struct.pack("<Q", n) + b"{}" + bytes(64) for n in LENGTHS
    }
    metadata = {"__metadata__": {HEADER: json.dumps(header)}}
    found |= {name: _file(metadata | one) for name, one in TENSORS.items()}
    found |= {name: _file({"__metadata__": {HEADER: text}, "a": ONE}) for name, text in HEADERS.items()}
    found["metadata that is a list"] = _file({"__metadata__": [1], "a": ONE})
    found["metadata of numbers"] = _file({"__metadata__": {HEADER: 1}, "a": ONE})
    found["header nested deep itself"] = struct.pack("<Q", 100_000) + b"[" * 100_000
    first = next(iter(tensors))
    for key, values in {
        "classes": ([], [1], "cat", None, [""]),
        "backbone": (None, 3, "", "nowhere", "\0", "../x", "a" * 5000),
        "method": (None, [], {}, {"name": 3}, {"name": "x", "prompts": {"length": 10**12}}),
        "format": ("1", None, 10**30, -1, 1.5),
    }.items():
        for value in values:
            found[f"{key} {str(value)[:40]!r}"] = (tensors, header | {key: value})
    found["a tensor of another shape"] = (tensors | {first: tensors[first][..., :0].clone()}, header)
    found["a tensor more"] = (tensors | {"more": tensors[first].clone()}, header)
    found["a tensor of another type"] = (tensors | {first: tensors[first].bool()}, header)
    return found


def _file(header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(10)


def hostile_headers(place: Path, photos: Path, tally: Tally) -> None:
    """Each as adapter of a run that is asked, and as checkpoint of one that goes on."""
    run, whole = place / "run", place / "run-whole"
    readers = {reader.name: reader for reader in run_readers(photos, run, place / "report.html")}
    for name, reader in (
        ("adapter.safetensors", readers["predict"]),
        ("checkpoint.safetensors", readers["train"]),
    ):
        tensors, header = read_tensors(whole / name)
        for what, content in files(tensors, header).items():
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(whole, run)
            if isinstance(content, bytes):
                (run / name).write_bytes(content)
            else:
                write_tensors(run / name, *content)
            if name.startswith("checkpoint") and isinstance(content, tuple) and "tensor" not in what:
                continue  # it has other keys
            tally.add(f"hostile `{name}`", *_judged(reader, what, whole, run))


def _judged(reader: Reader, what: str, whole: Path, run: Path) -> tuple[str, str]:
    outcome, said = invoke(reader.words)
    if outcome == SAME and reader.name == "train":
        learned = [(folder / "adapter.safetensors").read_bytes() for folder in (whole, run)]
        return (SAME if learned[0] == learned[1] else DIFFERENT), what
    if outcome == SAME:
        return DIFFERENT, f"{what} was read: {said}"
    if outcome == SENTENCE and "\n" in said:
        return TRACEBACK, f"{what}: {said}"
    return outcome, f"{what}: {said}"
