import hashlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.data_makers import picture
from restore_vlm.data import BadImage, inspect, open_image
from restore_vlm.data.images import PIXEL_LIMIT

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def bomb(width: int, height: int) -> bytes:
    return png_header(width, height) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def pixel(data: bytes) -> tuple:
    image = open_image(data)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_from_file_and_bytes(tmp_path: Path, kind: str) -> None:
    data = encoded(Image.new("RGB", (5, 4), (200, 30, 30)), kind)
    (tmp_path / "a").write_bytes(data)
    for image in (open_image(data), open_image(tmp_path / "a")):
        assert (image.mode, image.size, image.info) == ("RGB", (5, 4), {})
        assert np.abs(np.array(image.getpixel((0, 0))) - (200, 30, 30)).max() <= 6


def test_cmyk_jpeg() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(np.array(pixel(encoded(red, "JPEG"))) - (255, 0, 0)).max() <= 4


def test_16_bit_png_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    image = open_image(encoded(Image.fromarray(values), "PNG"))
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def test_big_endian_16_bit_tiff() -> None:
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 65535, 25700))
    decoded = open_image(encoded(image, "TIFF"))
    assert [decoded.getpixel((x, 0)) for x in range(2)] == [(255,) * 3, (100,) * 3]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 200], np.int32, [0, 200]),
        ([257, 65535], np.int32, [1, 255]),
        ([0, 2**30], np.int32, [0, 255]),
        ([-5, 100], np.int32, [0, 100]),
        ([0.0, 1.0], np.float32, [0, 255]),
        ([10.0, 250.0], np.float32, [10, 250]),
        ([np.nan, 65535.0], np.float32, [0, 255]),
    ],
)
def test_32_bit_and_float_tiff(values: list, kind: type, expected: list[int]) -> None:
    image = open_image(encoded(Image.fromarray(np.array([values], dtype=kind)), "TIFF"))
    assert [image.getpixel((x, 0))[0] for x in range(2)] == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    kind = "PNG" if mode != "PA" else "TIFF"
    try:
        data = encoded(image, kind)
    except OSError:
        pytest.skip(f"Pillow cannot write {mode}")
    assert pixel(data) == (255, 255, 255)


def test_half_transparent() -> None:
    assert pixel(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG")) == (127, 127, 127)


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (Image.new("P", (3, 3), 0), 0),
        (Image.new("P", (3, 3), 0), b"\0"),
        (Image.new("L", (3, 3), 7), 7),
        (Image.new("1", (3, 3), 0), 0),
        (Image.new("RGB", (3, 3), (1, 2, 3)), (1, 2, 3)),
        (Image.fromarray(np.full((3, 3), 700, dtype=np.uint16)), 700),
    ],
)
def test_transparent_colour_becomes_white(image: Image.Image, transparency: object) -> None:
    assert pixel(encoded(image, "PNG", transparency=transparency)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(mode: str) -> None:
    assert pixel(encoded(Image.new(mode, (3, 3), 255), "PNG")) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_animated_gives_first_frame(kind: str) -> None:
    red, blue = (Image.new("RGB", (6, 6), c) for c in ((255, 0, 0), (0, 0, 255)))
    data = encoded(red, kind, save_all=True, append_images=[blue])
    r, _, b = pixel(data)
    assert r > 240 and b < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (16, 32), "black")
    image.paste((255, 255, 255), (0, 0, 16, 16))  # white above
    turned = open_image(encoded(image, kind, exif=exif))
    assert turned.size == (32, 16)
    assert turned.getpixel((31, 8))[0] > 200 and turned.getpixel((0, 8))[0] < 50


def test_damaged_exif_is_ignored() -> None:
    data = encoded(Image.new("RGB", (4, 4)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert open_image(data).size == (4, 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"just some text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(Image.fromarray(NOISE), "JPEG")[:-300], "truncated"),
        (encoded(Image.fromarray(NOISE), "JPEG", progressive=True)[:-300], "truncated"),
        (encoded(Image.fromarray(NOISE), "PNG")[:-300], "truncated"),
        (encoded(Image.fromarray(NOISE), "BMP")[:-300], "truncated"),
        (encoded(Image.fromarray(NOISE), "GIF")[:-300], "truncated"),
        (encoded(Image.fromarray(NOISE), "WEBP")[:-300], "truncated or damaged|damaged|truncated"),
        (encoded(Image.fromarray(NOISE), "TIFF")[:-300], "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
        (bomb(50_000, 50_000), "2500 million pixels, over the limit"),
        (bomb(30_000, 20_000), "600 million pixels, over the limit"),
    ],
)
def test_bad_images(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(BadImage, match=f"^({reason})$"):
        open_image(data)
    with pytest.raises(BadImage, match=f"^({reason})$"):
        open_image(path)
    hashes, bad = inspect([path])
    assert not hashes and set(bad) == {path}


def test_own_limit_holds_whatever_pillow_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadImage, match="600 million"):
        open_image(bomb(30_000, 20_000))
    assert PIXEL_LIMIT == 178_956_970


def test_no_warning_and_filters_restored() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with pytest.raises(BadImage, match="truncated"):
            open_image(bomb(12_000, 10_000))  # between Pillow's warning and our limit
        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(pixel, [encoded(Image.fromarray(NOISE), "PNG")] * 20))) == 20
        assert warnings.filters == before


@pytest.mark.parametrize("what", ["absent.png", "."])
def test_unreadable(tmp_path: Path, what: str) -> None:
    with pytest.raises(BadImage, match=r"no such file|a folder"):
        open_image(tmp_path / what)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]),
    cut=st.integers(0, 2000),
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
)
def test_damage_never_leaks_another_error(kind: str, cut: int, flips: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(NOISE[:12, :12]), kind))
    for position, value in flips:
        data[position % len(data)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert open_image(bytes(data[: max(0, len(data) - cut // 4)])).mode == "RGB"
        except BadImage as error:
            assert len(str(error)) < 60


def test_inspect(tmp_path: Path) -> None:
    good = [picture(tmp_path / f"{i}.jpg", i, (64, 48)) for i in range(5)]
    empty = tmp_path / "empty.jpg"
    empty.touch()
    done: list[int] = []
    hashes, bad = inspect([*good, empty, good[0]], done.append)
    assert hashes == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in good}
    assert bad == {empty: "empty file"}
    assert done == [1, 2, 3, 4, 5, 6]
    assert inspect([]) == ({}, {})
