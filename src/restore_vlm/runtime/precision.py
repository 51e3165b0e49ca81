"""fp32, bf16 autocast, or fp16 autocast with loss scaling; learned tensors are always fp32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from restore_vlm.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def resolve_precision(asked: Precision, device: torch.device) -> str:
    """The precision to use: bf16 where the hardware has it, else fp32.

    Raises:
        UserError: For fp16 without CUDA.
    """
    if asked == "fp16" and device.type != "cuda":
        raise UserError(f"fp16 needs a CUDA device and this is {device.type}; use --precision bf16 or fp32.")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"
    return "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The autocast context of a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
