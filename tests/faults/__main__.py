"""Every fault that can be made on purpose, and what becomes of it: ``python tests/faults``.

It prints a table of counts and ends with exit code 1 if anything ended in a traceback, a silently different
result or a process that is left. Faults that need root, such as a full disk that is really full, are made
where there is root.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import folders, fuzz, hostile, kills
from faults.outcomes import Tally

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"


def photos(root: Path) -> Path:
    """``root/photos``: train and test parts of four classes of the demo's photos, three each."""
    demo = Path(str(files("restore_vlm") / "assets" / "demo"))
    for part in ("train", "test"):
        for folder in sorted((demo / part).iterdir())[:4]:
            (root / "photos" / part / folder.name).mkdir(parents=True)
            for photo in sorted(folder.iterdir())[:3]:
                shutil.copy(photo, root / "photos" / part / folder.name)
    return root / "photos"


def parts(place: Path, few: bool, examples: int | None = None) -> dict[str, Callable[[Tally], None]]:
    """What is tried, by name; ``few`` of each kind for a quick look."""
    root = place / "data"
    mine = photos(root)
    ways = ("flipped bit", "null", "cut in half") if few else tuple(folders.WAYS)

    def at(name: str) -> Path:
        (place / name).mkdir(exist_ok=True)
        return place / name

    return {
        "run": lambda tally: folders.damage_run_folder(at("run"), mine, tally, ways),
        "grid": lambda tally: folders.damage_grid(at("grid"), root, tally, ways),
        "hostile": lambda tally: _hostile(at("hostile"), mine, tally),
        "kills": lambda tally: kills.kill_runs(at("kills"), mine, tally, 3 if few else 54),
        "disk": lambda tally: kills.fill_disk(at("disk"), mine, tally, 2 if few else 54),
        "shared": lambda tally: kills.share_folders(at("shared"), mine, root, tally, 1 if few else 6),
        "stops": lambda tally: kills.stop_grids(at("stops"), root, tally, 1 if few else 3),
        "fuzz": lambda tally: fuzz.fuzz(tally, examples or (20 if few else 10_000)),
    }


def _hostile(place: Path, mine: Path, tally: Tally) -> None:
    folders.run_folder(mine, place / "run")
    shutil.copytree(place / "run", place / "run-whole")
    hostile.hostile_headers(place, mine, tally)


_parts: dict[str, Callable[[Tally], None]] = {}


def _tried(name: str) -> Tally:
    tally, start = Tally(), time.monotonic()
    _parts[name](tally)
    print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="run,grid,hostile,kills,disk,shared,stops,fuzz: some of the parts")
    parser.add_argument("--few", action="store_true", help="a few faults of each kind")
    parser.add_argument("--examples", type=int, help="made-up files of each kind; 10,000 by default")
    parser.add_argument("--markdown", action="store_true", help="write the table into docs/reliability.md")
    chosen = parser.parse_args()
    import torch

    from restore_vlm import terminal

    torch.set_num_threads(1)
    terminal.err.quiet = True
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        _parts.update(parts(Path(folder), chosen.few, chosen.examples))
        names = [name for name in _parts if chosen.only is None or name in chosen.only.split(",")]
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            for found in pool.map(_tried, names):
                tally.join(found)
    print(tally.markdown())
    for failure in tally.failures:
        print(failure, file=sys.stderr)
    print(f"{len(tally.failures)} failures, {time.monotonic() - began:.0f} s", file=sys.stderr)
    if chosen.markdown and not chosen.only and not chosen.few:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{tally.markdown()}\n{END}{rest.partition(END)[2]}")
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
