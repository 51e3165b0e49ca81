"""Small image folders for the tests of restore_vlm.data."""

from pathlib import Path

from PIL import Image


def picture(path: Path, colour: int | tuple[int, int, int] = 0, size: tuple[int, int] = (12, 8)) -> Path:
    """Writes a small one-coloured image; an int is turned into a colour of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = (colour % 256, colour * 7 % 256, colour // 256) if isinstance(colour, int) else colour
    Image.new("RGB", size, rgb).save(path)
    return path


def folder(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    """Writes one class folder per entry with that many different images."""
    colour = sum(ord(c) for c in root.name)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            colour += 1
            picture(root / name / f"{i}{suffix}", colour)
    return root
