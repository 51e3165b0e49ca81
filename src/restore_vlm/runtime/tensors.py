"""Files of tensors: safetensors with a JSON header and a checksum in their metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from restore_vlm.errors import UserError
from restore_vlm.runtime.files import SHA256, DamagedFile, misfit, parse_json, write_atomic

HEADER = "restore_vlm"
"""Key of the JSON header in the metadata."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors with a JSON header, atomically, and the checksum of both."""
    ready = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    text = json.dumps({**header, SHA256: _checksum(ready, header)})
    # One key: safetensors writes several in any order, and the same tensors are to be the same bytes.
    write_atomic(path, save(ready, metadata={HEADER: text}))


def read_tensors(
    path: Path, kind: Any = dict[str, Any], advice: str = "make it anew"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what :func:`write_tensors` wrote.

    Args:
        path: The file.
        kind: The form of the header, as a type that pydantic knows; keys beyond it are let through.
        advice: What to do where it is damaged, as the end of a sentence.

    Raises:
        DamagedFile: If it is not what was written, or its header not of that form.
        UserError: If it is absent.
    """
    if not os.path.lexists(path):
        raise UserError(
            f"There is no {path.name} in {path.parent}; is it a finished run of restore-vlm train?"
        )
    if not path.is_file():
        raise DamagedFile.because(path, "it is no ordinary file", advice)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: what is mapped from the file would change with it after it was checked.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        header = parse_json(metadata.pop(HEADER))
    except KeyError:
        raise DamagedFile.because(path, "or was not written by restore-vlm", advice) from None
    except Exception as error:  # what safetensors raises on damaged headers is not limited to its own errors
        raise DamagedFile.because(path, str(error) or type(error).__name__, advice) from None
    if isinstance(header, dict) and SHA256 in header and header.pop(SHA256) != _checksum(tensors, header):
        raise DamagedFile.because(path, "its checksum does not fit", advice)
    if reason := misfit(header, kind):
        raise DamagedFile.because(path, f"its header: {reason}", advice)
    return tensors, header


def alike(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names, shapes and types of others."""

    def form(of: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
        return {name: (tensor.shape, tensor.dtype) for name, tensor in of.items()}

    return form(tensors) == form(expected)


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 of the header and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
