"""What a run leaves on disk, written so that a kill at any moment leaves nothing half-written."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tomli_w
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from restore_vlm.errors import UserError

HEADER = "restore_vlm"
"""Key of the JSON header in the metadata of every file of tensors."""


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes a file completely or not at all.

    Raises:
        UserError: If the folder cannot be written or the disk is full.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_json(path: Path, content: Any) -> None:
    write_atomic(path, json.dumps(content, indent=2) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes safetensors with a JSON header in its metadata."""
    ready = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    write_atomic(path, save(ready, metadata={HEADER: json.dumps(header)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what :func:`write_tensors` wrote.

    Raises:
        UserError: If the file is missing, damaged or not one of ours.
    """
    if not path.is_file():
        raise UserError(
            f"There is no {path.name} in {path.parent}; is it a finished run of restore-vlm train?"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged or was not written by restore-vlm ({error}).") from None


def environment(device: torch.device) -> dict[str, Any]:
    """The versions and the machine a run's numbers depend on."""
    packages = (
        "restore-vlm", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "scikit-learn", "pillow",
    )  # fmt: skip
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }


class RunFolder:
    """The files of one training run.

    Args:
        path: The folder; made when first written to.

    Attributes:
        config: ``config.toml``, everything the run was asked for, resolved.
        environment: ``environment.json``.
        metrics: ``metrics.jsonl``, one line per step.
        shift: ``shift.jsonl``, one line per epoch, where it was asked for.
        adapter: ``adapter.safetensors``, what was learned; there once the run is finished.
        checkpoint: ``checkpoint.safetensors``, where a killed run resumes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.environment = path / "config.toml", path / "environment.json"
        self.metrics, self.images = path / "metrics.jsonl", path / "images.json"
        self.shift = path / "shift.jsonl"
        self.adapter, self.checkpoint = path / "adapter.safetensors", path / "checkpoint.safetensors"

    def start(self, config: Mapping[str, Any], device: torch.device) -> None:
        """Claims the folder for a run, or checks that it holds the same one.

        A switch that an earlier version did not know counts as off.

        Raises:
            UserError: If it holds a run with another configuration.
        """
        if self.config.is_file():
            try:
                old = tomllib.loads(self.config.read_text())
            except tomllib.TOMLDecodeError:
                raise UserError(f"{self.config} is not valid TOML; choose another --out.") from None
            new = tomllib.loads(tomli_w.dumps(_without(config, None)))
            old, new = _without(old, False), _without(new, False)
            if old != new:
                differ = ", ".join(sorted(_differences(old, new)))
                raise UserError(f"{self.path} holds a run with another {differ}; choose another --out.")
            return
        if self.path.exists() and (not self.path.is_dir() or list(self.path.glob("[!.]*"))):
            raise UserError(f"{self.path} exists and is not a run of restore-vlm; choose another --out.")
        write_atomic(self.config, tomli_w.dumps(_without(config, None)))
        write_json(self.environment, environment(device))

    def keep_lines(self, step: int) -> None:
        """Cuts what is logged to the lines up to a step: those the checkpoint knows."""
        for path in (self.metrics, self.shift):
            if path.exists():
                lines = path.read_text().splitlines(keepends=True)
                write_atomic(path, "".join(line for line in lines if _step(line) <= step))


def add_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Appends JSON lines, each of a ``step``.

    Raises:
        UserError: If the file cannot be written or the disk is full.
    """
    if not lines:
        return
    try:
        with path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error


def _step(line: str) -> float:
    """Of a line; one that was cut off by a kill is later than any."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def _without(value: Any, left_out: Literal[False] | None) -> Any:
    if isinstance(value, Mapping):
        return {k: _without(v, left_out) for k, v in value.items() if v is not left_out}
    return value


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key in old.keys() | new.keys():
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.add(prefix + key)
    return found
