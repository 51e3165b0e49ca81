"""What logging feature shift costs a training run: RESTORE on the bundled photos, with and without.

    OMP_NUM_THREADS=1 python benchmarks/shift_log.py [--repeats 5]

Interleaved runs of one process: tiny CLIP, the tiny recipe, 16 shots of the base classes. The cost is
everything logging adds after the photos are checked: loading the probe, the frozen pass, a measurement
before training and one per epoch. Processor time is shown beside wall time, for busy machines.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from restore_vlm import fit
from restore_vlm.demo import PHOTOS
from restore_vlm.training import Progress


def seconds(log_shift: bool) -> tuple[float, float]:
    """Wall and processor time of training; checking and decoding the photos is left out."""
    began = (0.0, 0.0)

    def checked(done: int, total: int) -> None:
        nonlocal began
        began = time.perf_counter(), time.process_time()

    fit(
        PHOTOS,
        classes="base",
        precision="fp32",
        log_shift=log_shift,
        progress=Progress(checked=checked),
        validation=None,
    )
    return time.perf_counter() - began[0], time.process_time() - began[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    seconds(True)
    pairs = [(seconds(False), seconds(True)) for _ in range(args.repeats)]
    for clock, name in enumerate(("wall", "processor")):
        without, with_it = (median(times[clock] for times in runs) for runs in zip(*pairs, strict=True))
        ratios = sorted(with_it[clock] / without[clock] - 1 for without, with_it in pairs)
        spread = f"pairs {100 * ratios[0]:+.1f} to {100 * ratios[-1]:+.1f} %"
        cost = 100 * median(ratios)
        print(f"{name} time: without {without:.2f} s, with {with_it:.2f} s: {cost:+.1f} % ({spread})")


if __name__ == "__main__":
    main()
