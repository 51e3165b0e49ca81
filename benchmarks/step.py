"""Time a RESTORE training step on ViT-B/16: the fast towers against the plain path.

    python benchmarks/step.py [--classes 51 200 1000] [--precision fp32 bf16] [--repeats 3]

One process, random weights, batch 4, published recipe. ``plain`` is the straightforward step
(77 tokens for every class, every token in every block; the oracle of the tests) and runs only
where its memory is expected to fit. ``floor`` is the matrix-multiply floor: the FLOPs that
PyTorch counts in the fast step over the rate of one large matrix multiplication, measured
here. Peak memory is that of the whole process during the step (Linux only).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import sys
import time
from collections.abc import Callable
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
from restore_vlm.training import autocast, keep_freed_memory

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
            assert self.losses.feature_shift is not None
            shift = self.losses.feature_shift(self.model, self.images, out)
        return self._finish(entropy, shift)

    def _finish(self, entropy: torch.Tensor, shift: torch.Tensor) -> float:
        (entropy + shift).backward()
        self.optimiser.zero_grad()
        return float(entropy.detach())

    def flops(self) -> int:
        with FlopCounterMode(display=False) as counter:
            self.fast()
        return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[51, 200, 1000])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float, default=20.0, help="GB the plain step may take")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    keep_freed_memory()
    clip = open_clip.create_model("ViT-B-16-quickgelu")
    table = Table(title=f"RESTORE step, ViT-B/16, batch {BATCH}, {torch.get_num_threads()} threads")
    for heading in (
        "precision",
        "classes",
        "fast, s",
        "plain, s",
        "ratio",
        "of floor, %",
        "fast, GB",
        "plain, GB",
    ):
        table.add_column(heading, justify="right")
    for precision in args.precision:
        for classes in args.classes:
            table.add_row(*measure(clip, classes, precision, args.repeats, args.memory))
    Console(width=100).print(table)


def measure(clip: torch.nn.Module, classes: int, precision: str, repeats: int, memory: float) -> list[str]:
    """One row: medians of interleaved repeats, so that a drifting machine slows both alike."""
    step = Step(clip, classes, precision)
    reset_peak_memory()
    entropy = step.fast()
    fast_peak = peak_memory()
    flops = step.flops()
    fits = classes * PLAIN_BYTES_PER_CLASS < memory * 1e9
    plain_peak = None
    if fits:
        reset_peak_memory()
        other = step.plain()
        plain_peak = peak_memory()
        tolerance = 1e-4 if precision == "fp32" else 0.1
        assert abs(other - entropy) <= tolerance * abs(entropy), (entropy, other)
    fast, plain, rates = [], [], []
    for _ in range(repeats):
        rates.append(matmul_rate(precision))
        fast.append(timed(step.fast))
        if fits:
            plain.append(timed(step.plain))
    seconds = median(fast)
    floor = flops / median(rates)
    print(f"{precision} {classes}: loss {entropy:.4f}, {flops / 1e9:.0f} GFLOP, "
          f"{median(rates) / 1e9:.0f} GFLOP/s", file=sys.stderr)  # fmt: skip
    show = lambda value, digits=2: "-" if value is None else f"{value:.{digits}f}"  # noqa: E731
    return [
        precision, str(classes), show(seconds), show(median(plain) if plain else None),
        show(median(plain) / seconds if plain else None, 1), show(100 * floor / seconds, 0),
        show(fast_peak), show(plain_peak),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
