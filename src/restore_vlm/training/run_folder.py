"""What a run leaves on disk, written so that a kill at any moment leaves nothing half-written."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt
from torch import Tensor

from restore_vlm.errors import UserError
from restore_vlm.runtime.files import (
    DamagedFile,
    parse_toml,
    read_json,
    read_lines,
    read_toml,
    write_json,
    write_lines,
    write_toml,
)
from restore_vlm.runtime.locks import locked_folder
from restore_vlm.runtime.tensors import read_tensors

ANEW = "remove it to train from the start"
WITHOUT = "remove it to go on without it"


class Request(BaseModel):
    """What is read back of the ``run`` table of ``config.toml``."""

    data: str
    method: str | dict[str, Any]
    backbone: str
    recipe: str
    classes: str
    precision: str
    seed: int
    settings: list[str]
    shots: int | None = None
    device: str | None = None


class Named(BaseModel):
    """What is read back of its ``method`` table."""

    name: str


class Config(BaseModel):
    """What is read back of ``config.toml``."""

    run: Request
    method: Named


class Environment(BaseModel):
    """What is read back of ``environment.json``."""

    python: str
    platform: str
    packages: dict[str, str]
    device_name: str


class Step(BaseModel):
    """A line of ``metrics.jsonl``; its other keys are the terms of the loss."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    step: int
    epoch: int
    lr: float
    loss: float
    accuracy: float


class Checkpoint(BaseModel):
    """What the header of ``checkpoint.safetensors`` says."""

    step: NonNegativeInt
    seconds: float
    epoch_loss: float = 0.0
    scaler: dict[str, Any]


class EpochShift(BaseModel):
    """A line of ``shift.jsonl``."""

    epoch: int
    step: int
    loss: float | None
    shift_text: float
    shift_image: float
    discrepancy: float
    text: list[float]
    image: list[float]


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
        validation: ``validation.json``, how it compares with zero-shot and a linear probe.
        checkpoint: ``checkpoint.safetensors``, where a killed run resumes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.environment = path / "config.toml", path / "environment.json"
        self.metrics, self.images = path / "metrics.jsonl", path / "images.json"
        self.shift, self.validation = path / "shift.jsonl", path / "validation.json"
        self.adapter, self.checkpoint = path / "adapter.safetensors", path / "checkpoint.safetensors"

    def lock(self) -> AbstractContextManager[None]:
        """Keeps a second process from training into the folder."""
        return locked_folder(self.path, "training into")

    def start(self, config: Mapping[str, Any], device: torch.device) -> None:
        """Claims the folder for a run, or checks that it holds the same one.

        A switch that an earlier version did not know counts as off.

        Raises:
            UserError: If it holds a run with another configuration, or one that cannot be told.
        """
        new = _without(config, None)
        if self.config.is_file():
            old = read_toml(self.config, dict[str, Any], "train into another --out")
            old, new = _without(old, False), _without(parse_toml(tomli_w.dumps(new)), False)
            if old != new:
                differ = ", ".join(sorted(_differences(old, new)))
                raise UserError(f"{self.path} holds a run with another {differ}; choose another --out.")
            return
        if self.path.exists() and (not self.path.is_dir() or list(self.path.glob("[!.]*"))):
            raise UserError(f"{self.path} exists and is not a run of restore-vlm; choose another --out.")
        write_toml(self.config, new)
        write_json(self.environment, environment(device))

    def read_config(self) -> dict[str, Any]:
        """Everything the run was asked for.

        Raises:
            UserError: If it is absent or damaged.
        """
        return read_toml(self.config, Config, "train anew into another folder")

    def read_environment(self) -> dict[str, Any]:
        """The versions and the machine.

        Raises:
            UserError: If the file is absent or damaged.
        """
        return read_json(self.environment, Environment, "remove it, and reports do without")

    def read_images(self) -> dict[str, str]:
        """Path -> sha256 of the images the run was trained on.

        Raises:
            UserError: If the file is absent or damaged.
        """
        return read_json(self.images, dict[str, str], "the same restore-vlm train writes it again")

    def read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and header of where a run is, or ended.

        Raises:
            UserError: If the file is absent or damaged.
        """
        return read_tensors(self.checkpoint, Checkpoint, ANEW)

    def training_seconds(self) -> float:
        """Time spent training, over all interruptions; 0 where nothing was learned by steps.

        Raises:
            UserError: If the checkpoint is damaged.
        """
        return self.read_checkpoint()[1]["seconds"] if self.checkpoint.exists() else 0.0

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, none if there is no such file.

        Raises:
            UserError: If it is damaged.
        """
        return read_lines(self.metrics, Step, WITHOUT, "step")

    def read_shift(self) -> list[dict[str, Any]]:
        """The lines of ``shift.jsonl``, none if there is no such file.

        Raises:
            UserError: If it is damaged.
        """
        return read_lines(self.shift, EpochShift, WITHOUT, "epoch")

    def keep_lines(self, step: int, epoch: int) -> None:
        """Cuts what is logged to what the checkpoint knows: all up to a step, which ended so many epochs.

        Raises:
            UserError: If what is logged is damaged, or ends before.
        """
        logs = (self.metrics, self.read_metrics, "step", step), (self.shift, self.read_shift, "epoch", epoch)
        for path, read, count, last in logs:
            if path.exists():
                kept = [line for line in read() if line[count] <= last]
                if last > 0 and (not kept or kept[-1][count] < last):
                    reason = f"it ends before {count} {last}, that of the checkpoint"
                    raise DamagedFile.because(path, reason, WITHOUT)
                write_lines(path, kept)

    def forget_lines(self) -> None:
        """Empties what is logged: there is no checkpoint to go on from."""
        for path in (self.metrics, self.shift):
            if path.exists():
                write_lines(path, [])


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
