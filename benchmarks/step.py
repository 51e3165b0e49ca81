"""Time a RESTORE training step on ViT-B/16: the fast towers against the plain path.

    python benchmarks/step.py [--classes 51 200 1000] [--precision fp32 bf16] [--repeats 3]

One process, random weights, batch 4, published recipe. ``plain`` is the straightforward step
(77 tokens for every class, every token in every block; the oracle of the tests) and runs only
where its memory is expected to fit, and first, while the process still has the C library's
default allocation, as published code runs; the fast step runs as training does, which keeps
freed memory. ``floor`` is the matrix-multiply floor: the FLOPs that PyTorch counts in the fast
step over the rate of one large matrix multiplication, measured here. Peak memory is that of the
whole process during the step (Linux only).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracle import plain_logits
from restore_vlm.backbone import Backbone
from restore_vlm.method import Losses, PromptedModel, load_recipe
from restore_vlm.runtime.memory import freed_memory_kept
from restore_vlm.runtime.precision import autocast

BATCH = 4
CPU = torch.device("cpu")
PLAIN_BYTES_PER_CLASS = 55e6
"""Of the plain step, fp32; it is skipped where classes times this exceeds --memory."""


def matmul_rate(precision: str, size: int = 4096, repeats: int = 5) -> float:
    """FLOP/s of one large matrix multiplication, the best of a few."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    a @ b
    return 2 * size**3 / min(timed(lambda: a @ b) for _ in range(repeats))


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def reset_peak_memory() -> None:
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float | None:
    """GB of resident memory at its highest since the last reset."""
    if sys.platform != "linux":
        return None
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


class Step:
    """One training step along either path.

    Args:
        clip: The open_clip model.
        classes: How many class names.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, clip: torch.nn.Module, classes: int, precision: str) -> None:
        tokenizer = open_clip.get_tokenizer("ViT-B-16")
        backbone = Backbone(clip, tokenizer, "ViT-B-16", PreprocessCfg())
        torch.manual_seed(1)
        recipe = load_recipe("restore")
        self.clip, self.precision = clip, precision
        self.model = PromptedModel(backbone, recipe, IMAGENET_CLASSNAMES[:classes])
        self.losses = Losses(recipe, self.model)
        self.images = torch.randn(BATCH, 3, 224, 224)
        self.labels = torch.arange(BATCH) * 7 % classes
        self.optimiser = torch.optim.SGD(self.model.trainable().values(), lr=1e-5, momentum=0.9)

    def fast(self) -> float:
        with autocast(self.precision, CPU):
            terms = self.losses(self.model, self.images, self.labels)[1]
        return self._finish(terms["cross_entropy"], terms["feature_shift"])

    def plain(self) -> float:
        with autocast(self.precision, CPU):
            logits = plain_logits(self.clip, self.model, self.images)
            entropy = F.cross_entropy(logits, self.labels)
            out = type("Out", (), {})()
            out.text_prompts, out.image_prompts = self.model.prompt_tokens()
            shift = self.losses.terms["feature_shift"](out, self.labels)
        return self._finish(entropy, shift)

    def _finish(self, entropy: torch.Tensor, shift: torch.Tensor) -> float:
        (entropy + shift).backward()
        self.optimiser.zero_grad()
        return float(entropy.detach())

    def flops(self) -> int:
        with FlopCounterMode(display=False) as counter:
            self.fast()
        return counter.get_total_flops()


@dataclass
class Timing:
    """Seconds of a step, median of the repeats; GB at its peak; the cross entropy it found."""

    seconds: float
    peak: float | None
    entropy: float


def measure(call: Callable[[], float], repeats: int) -> Timing:
    """Runs once for memory and warm-up, then for time."""
    reset_peak_memory()
    entropy = call()
    peak = peak_memory()
    return Timing(median(timed(call) for _ in range(repeats)), peak, entropy)


def measure_floor(step: Step, repeats: int) -> float:
    """Seconds that the matrix products of the fast step take at the machine's full rate."""
    return step.flops() / median(matmul_rate(step.precision) for _ in range(repeats))


HEADINGS = (
    "precision",
    "classes",
    "fast, s",
    "plain, s",
    "ratio",
    "to fp32 plain",
    "of floor, %",
    "fast, GB",
    "plain, GB",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[51, 200, 1000])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float, default=20.0, help="GB the plain step may take")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    clip = open_clip.create_model("ViT-B-16-quickgelu")
    rows = [(p, c) for p in args.precision for c in args.classes]
    plain: dict[tuple[str, int], Timing] = {}
    for precision, classes in rows:
        if classes * PLAIN_BYTES_PER_CLASS < args.memory * 1e9:
            plain[precision, classes] = measure(Step(clip, classes, precision).plain, args.repeats)
    table = Table(title=f"RESTORE step, ViT-B/16, batch {BATCH}, {torch.get_num_threads()} threads")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for precision, classes in rows:
        step = Step(clip, classes, precision)
        with freed_memory_kept():
            fast, floor = measure(step.fast, args.repeats), measure_floor(step, args.repeats)
        other = plain.get((precision, classes))
        if other:
            tolerance = 1e-4 if precision == "fp32" else 0.1
            assert abs(other.entropy - fast.entropy) <= tolerance * abs(fast.entropy), (other, fast)
        table.add_row(*cells(precision, classes, fast, other, plain.get(("fp32", classes)), floor))
    Console(width=110).print(table)


def cells(
    precision: str, classes: int, fast: Timing, plain: Timing | None, published: Timing | None, floor: float
) -> list[str]:
    """One row of the table."""

    def show(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    def ratio(slow: Timing | None) -> str:
        return show(slow.seconds / fast.seconds if slow else None, 1)

    return [
        precision, str(classes), show(fast.seconds), show(plain.seconds if plain else None),
        ratio(plain), ratio(published), show(100 * floor / fast.seconds, 0),
        show(fast.peak), show(plain.peak if plain else None),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
