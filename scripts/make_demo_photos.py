"""Make the bundled demo photos: real photos through a documented sensor.

The shipped folder was made by

    python scripts/make_demo_photos.py \
        --photos ../shared/data/tiny-imagenet-val.zip \
        --names ../shared/data/tiny-imagenet-classes.tsv \
        --sensor thermal --part demo --out src/restore_vlm/assets/demo

``--part`` draws 40 of the 200 classes: ``demo`` the bundled ones, ``choose`` 40 others, on which
sensor and recipes were chosen. Each class gets 16 training photos and the rest for test, in
the order of a seeded shuffle.
"""

from __future__ import annotations

import argparse
import io
import random
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, SHOTS, SEED = 40, 16, 2403


def luminance(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


def blur(channel: np.ndarray) -> np.ndarray:
    """3 x 3 binomial blur."""
    padded = np.pad(channel, 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16


def vignette(size: int) -> np.ndarray:
    axis = np.linspace(-1, 1, size)
    return np.clip(1.15 - 0.6 * (axis[:, None] ** 2 + axis[None] ** 2), 0, 1)


def night_vision(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image intensifier: few photons (shot noise), phosphor glow, green screen, round optics."""
    photons = rng.poisson(luminance(rgb) ** 1.3 * 14 + 0.6) / 14
    glow = np.clip(blur(photons) * 1.5 + rng.normal(0, 0.03, photons.shape), 0, 1) * vignette(len(rgb))
    return np.stack([0.22 * glow**2, 0.08 + 0.92 * glow, 0.18 * glow], axis=-1)


def thermal(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A thermal camera: bright is hot, shown in the iron palette, with a little sensor noise."""
    heat = np.clip(luminance(rgb) + rng.normal(0, 0.02, rgb.shape[:2]), 0, 1)
    stops = np.array([[0, 0, 0.1], [0.35, 0, 0.6], [0.85, 0.2, 0.3], [1, 0.65, 0.1], [1, 1, 0.85]])
    return np.stack([np.interp(heat, np.linspace(0, 1, 5), stops[:, c]) for c in range(3)], axis=-1)


def stain(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stained slide: optical density split into a purple and a pink dye, on white."""
    dark = 1 - luminance(rgb)
    warm = np.clip(rgb[..., 0] - rgb[..., 2] + 0.3, 0, 1)
    purple, pink = np.array([0.65, 0.7, 0.29]), np.array([0.07, 0.99, 0.11])
    density = 1.6 * dark[..., None] * purple + 0.9 * warm[..., None] * pink
    return np.exp(-density) + rng.normal(0, 0.02, rgb.shape)


def old_film(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Faded sepia film: low contrast, grain, a vertical scratch."""
    grey = 0.15 + 0.7 * luminance(rgb) + rng.normal(0, 0.03, rgb.shape[:2])
    grey[:, rng.integers(0, len(rgb))] += 0.35
    return np.clip(grey, 0, 1)[..., None] * np.array([1.0, 0.86, 0.62])


SENSORS = {
    "night-vision": night_vision, "thermal": thermal, "stain": stain, "old-film": old_film,
    "none": lambda rgb, rng: rgb,
}  # fmt: skip


def take(photo: bytes, name: str, sensor: str) -> Image.Image:
    """One photo through a sensor; the noise depends on the file name alone."""
    rgb = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"), np.float64) / 255
    seen = SENSORS[sensor](rgb, np.random.default_rng([SEED, zlib.crc32(name.encode())]))
    return Image.fromarray((np.clip(seen, 0, 1) * 255).round().astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="zip with one folder per class")
    parser.add_argument("--names", type=Path, required=True, help="TSV: folder, comma-separated names")
    parser.add_argument("--sensor", choices=SENSORS, required=True)
    parser.add_argument("--part", choices=("demo", "choose"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    names = dict(line.split("\t") for line in args.names.read_text().splitlines()[1:])
    names = {folder: every.split(",")[0] for folder, every in names.items()}
    drawn = random.Random(SEED).sample(sorted(names), 2 * CLASSES)
    chosen = drawn[:CLASSES] if args.part == "demo" else drawn[CLASSES:]
    archive = zipfile.ZipFile(args.photos)
    for folder in chosen:
        photos = sorted(
            n for n in archive.namelist() if Path(n).parent.name == folder and not n.endswith("/")
        )
        random.Random(f"{SEED} {folder}").shuffle(photos)
        for i, photo in enumerate(photos):
            home = args.out / ("train" if i < SHOTS else "test") / names[folder].lower().replace(" ", "_")
            home.mkdir(parents=True, exist_ok=True)
            image = take(archive.read(photo), Path(photo).name, args.sensor)
            image.save(home / f"{Path(photo).stem}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
