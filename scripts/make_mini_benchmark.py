"""Make the datasets of the mini benchmark from small copies of public ones.

    python scripts/make_mini_benchmark.py ../shared/data ROOT
    restore-vlm bench mini --root ROOT --out results

The first folder holds ``caltech-101.zip``, ``pacs.zip`` and ``tiny-imagenet-val.zip``. ROOT gets

* ``caltech-101`` as it is, with its published split;
* ``pacs/DOMAIN``: 30 training and 50 test images of each class and domain;
* the kinds of ``src/restore_vlm/bench/mini.toml`` from Tiny ImageNet: 16 training and 34 test images of
  each class, as they are (``animals``) and through simulated sensors (``animals-thermal``);
* without the 40 classes on which the recipes of the tiny backbone were chosen (docs/tiny-clip.md).

Images are drawn by a seeded shuffle of each class, a sensor's noise by the file's name: the same bytes
each time. A dataset that is there is left alone, one half made is made anew.
"""

from __future__ import annotations

import argparse
import io
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from make_demo_photos import CLASSES, SEED, SENSORS, blur, take
from PIL import Image
from studies.restore.mini import kinds

Photos = dict[str, list[str]]


def fog(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fog between camera and scene: J t + A (1 - t), t = exp(-2.2 d), A = 0.8, under sensor noise.

    The distance d is 0.5 at the bottom and 1.1 at the top, thicker and thinner in soft patches; what
    remains is seen a little out of focus.
    """
    height, width = rgb.shape[:2]
    patches = Image.fromarray(rng.normal(0, 0.25, (4, 4)).astype(np.float32))
    soft = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    through = np.exp(-2.2 * np.clip(np.linspace(1.1, 0.5, height)[:, None] + soft, 0.1, None))[..., None]
    scene = np.stack([blur(rgb[..., c]) for c in range(3)], axis=-1)
    return scene * through + 0.8 * (1 - through) + rng.normal(0, 0.015, rgb.shape)


SENSORS["fog"] = fog
SHIFTS = ("thermal", "fog", "old-film", "night-vision")


def chosen_on(folders: list[str]) -> set[str]:
    """The classes that recipes were chosen on: the second draw of ``make_demo_photos.py``."""
    return set(random.Random(SEED).sample(sorted(folders), 2 * CLASSES)[CLASSES:])


@contextmanager
def made(place: Path) -> Iterator[Path | None]:
    """A folder that appears only when it is whole; None where it is there already."""
    if place.exists():
        yield None
        return
    part = place.with_name(f".{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    part.rename(place)
    print(place)


def photos_in(archive: zipfile.ZipFile) -> Photos:
    """The images of a zip by their folder."""
    found: Photos = {}
    for name in sorted(n for n in archive.namelist() if not n.endswith("/")):
        found.setdefault(str(PurePosixPath(name).parent), []).append(name)
    return found


def split(
    archive: zipfile.ZipFile, photos: Photos, place: Path, counts: tuple[int, int], sensor: str = "none"
) -> None:
    """Writes ``place/train`` and ``place/test`` with a folder for each class of ``photos``."""
    with made(place) as part:
        if part is None:
            return
        for name, found in photos.items():
            order = sorted(found)
            random.Random(f"{SEED} {name}").shuffle(order)
            for i, photo in enumerate(order[: sum(counts)]):
                home = part / ("train" if i < counts[0] else "test") / name
                home.mkdir(parents=True, exist_ok=True)
                (home / Path(photo).name).write_bytes(seen(archive.read(photo), Path(photo).name, sensor))


def seen(photo: bytes, name: str, sensor: str) -> bytes:
    """A photo's file after a sensor; its own bytes without one."""
    if sensor == "none":
        return photo
    written = io.BytesIO()
    take(photo, name, sensor).save(written, "WEBP", quality=80, method=4)
    return written.getvalue()


def make_caltech(source: Path, root: Path) -> None:
    with made(root / "caltech-101") as part, zipfile.ZipFile(source / "caltech-101.zip") as archive:
        if part is not None:
            archive.extractall(part)
            (inner,) = part.iterdir()
            for entry in inner.iterdir():
                entry.rename(part / entry.name)
            inner.rmdir()


def make_pacs(source: Path, root: Path, counts: tuple[int, int]) -> None:
    with zipfile.ZipFile(source / "pacs.zip") as archive:
        domains: dict[str, Photos] = {}
        for folder, found in photos_in(archive).items():
            _, domain, name = PurePosixPath(folder).parts
            domains.setdefault(domain, {})[name] = found
        for domain, photos in domains.items():
            split(archive, photos, root / "pacs" / domain, counts)


def make_kinds(source: Path, root: Path, counts: tuple[int, int], say: Callable[[str], None] = print) -> None:
    with zipfile.ZipFile(source / "tiny-imagenet-val.zip") as archive:
        found = {PurePosixPath(folder).name: names for folder, names in photos_in(archive).items()}
        left_out = chosen_on([wnid for classes in kinds().values() for wnid in classes])
        for kind, classes in kinds().items():
            names = {wnid: name.lower().replace(" ", "_") for wnid, name in classes.items()}
            mine = {names[w]: found[w] for w in sorted(classes) if w in found and w not in left_out}
            for sensor in ("none", *SHIFTS):
                split(
                    archive, mine, root / (kind if sensor == "none" else f"{kind}-{sensor}"), counts, sensor
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "source", type=Path, help="folder of caltech-101.zip, pacs.zip, tiny-imagenet-val.zip"
    )
    parser.add_argument("root", type=Path, help="where the datasets go")
    args = parser.parse_args()
    make_caltech(args.source, args.root)
    make_pacs(args.source, args.root, (30, 50))
    make_kinds(args.source, args.root, (16, 34))


if __name__ == "__main__":
    main()
