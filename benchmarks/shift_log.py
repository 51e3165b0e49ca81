"""What logging feature shift costs a training run: RESTORE on the bundled photos, with and without.

    python benchmarks/shift_log.py [--repeats 3]

Interleaved runs of one process, tiny CLIP, 16 shots of 20 classes, the tiny recipe.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from restore_vlm import fit
from restore_vlm.demo import PHOTOS
from restore_vlm.training import Progress


def seconds(log_shift: bool) -> float:
    """Of training alone; checking and decoding the photos is left out."""
    began: list[float] = []

    def first(done: int, total: int, metrics: dict[str, float]) -> None:
        if not began:
            began.append(time.perf_counter())

    fit(PHOTOS, classes="base", precision="fp32", log_shift=log_shift, progress=Progress(on_step=first))
    return time.perf_counter() - began[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    pairs = [(seconds(False), seconds(True)) for _ in range(args.repeats)]
    without, with_it = (median(times) for times in zip(*pairs, strict=True))
    print(f"without {without:.2f} s, with {with_it:.2f} s: {100 * (with_it / without - 1):+.1f} %")


if __name__ == "__main__":
    main()
