"""Any image file to 8-bit RGB, or the reason why not."""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PIXEL_LIMIT = 178_956_970
"""Images of more pixels than this are refused before they are decoded."""

# Not every format Pillow knows: some of them start other programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO", "PPM", "AVIF", "JPEG2000")
SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II\*\0|MM\0\*", re.DOTALL)
CHUNK = 4096


class BadImage(Exception):
    """An image that cannot be used; the message is the reason in a few words."""


def open_image(path_or_bytes: Path | bytes) -> Image.Image:
    """Decodes an image, or the first frame of an animation, to upright 8-bit RGB.

    EXIF orientation is applied, transparency is composited on white, 16-bit is scaled to 8.

    Args:
        path_or_bytes: A file, or the bytes of one.

    Raises:
        BadImage: If it cannot be read or decoded, or has more than ``PIXEL_LIMIT`` pixels.
    """
    data = path_or_bytes if isinstance(path_or_bytes, bytes) else _read(path_or_bytes)
    return _decode(data)


def inspect(
    paths: Sequence[Path], progress: Callable[[int], None] | None = None
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Reads and decodes every file once, on all cores.

    Args:
        paths: The files; those named twice are read once.
        progress: Called after each file with the number of files done so far.

    Returns:
        The sha256 (hex) of the bytes of each good file and the reason for each bad one, both in
        the order of ``paths``.
    """
    unique = list(dict.fromkeys(paths))
    hashes: dict[Path, str] = {}
    bad: dict[Path, str] = {}
    with _quiet(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(unique), CHUNK):
            chunk = unique[start : start + CHUNK]
            for path, (digest, reason) in zip(chunk, pool.map(_examine, chunk), strict=True):
                (bad if reason else hashes)[path] = reason or digest
                if progress:
                    progress(len(hashes) + len(bad))
    return hashes, bad


def _examine(path: Path) -> tuple[str, str]:
    """(sha256, ""), or ("", reason)."""
    try:
        data = _read(path)
        _decode(data, quick=True)
    except BadImage as error:
        return "", str(error)
    return hashlib.sha256(data).hexdigest(), ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadImage("no such file") from None
    except IsADirectoryError:
        raise BadImage("a folder, not a file") from None
    except (OSError, ValueError, MemoryError) as error:
        raise BadImage(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _decode(data: bytes, quick: bool = False) -> Image.Image:
    """Decodes bytes; ``quick`` lets JPEGs come out at an eighth of their size."""
    if not data:
        raise BadImage("empty file")
    with _quiet():
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                _refuse_bomb(image.width * image.height)
                if quick:
                    image.draft(None, (1, 1))
                image.load()
                return _to_rgb(_upright(image))
        except BadImage:
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
            raise BadImage(_reason(error, data)) from error


def _formats() -> list[str]:
    Image.init()
    return [f for f in FORMATS if f in Image.OPEN]


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"(\d+) pixels", str(error))
        return _over_limit(int(pixels[1])) if pixels else "too many pixels, over the limit"
    if isinstance(error, UnidentifiedImageError):
        return "truncated or damaged" if SIGNATURES.match(data) else "not an image"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated"
    return "damaged"


def _refuse_bomb(pixels: int) -> None:
    if pixels > PIXEL_LIMIT:
        raise BadImage(_over_limit(pixels))


def _over_limit(pixels: int) -> str:
    return f"{pixels / 1e6:.0f} million pixels, over the limit"


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF says nothing against the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    transparent = "transparency" in image.info
    if image.mode.startswith("I") or image.mode == "F":
        rgb = _to_8_bits(image).convert("RGB")
    elif transparent or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        rgb = canvas.convert("RGB")
    else:
        rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greys to mode L, by the range their mode or values declare."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
    top = values.max(initial=0)
    if image.mode.startswith("I;16") or 255 < top <= 65535:
        scale = 257.0
    elif image.mode == "F" and top <= 1:
        scale = 1 / 255
    else:
        scale = max(top / 255, 1.0)
    grey = np.rint(values / scale).clip(0, 255)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: warnings.catch_warnings | None = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Pillow's warnings; unlike ``warnings.catch_warnings`` alone, from many threads."""
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth == 1:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
                _quiet_filters = None
