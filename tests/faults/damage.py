"""Twenty ways in which a file is no longer what was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

DEEP = 100_000
HUGE = (1 << 30) + 1

Damage = Callable[[Path, Random], None]


def flipped_bit(path: Path, random: Random) -> None:
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def changed_digit(path: Path, random: Random) -> None:
    """Of a text; in a file of tensors, a byte of the last one."""
    content = bytearray(path.read_bytes())
    digits = [i for i, byte in enumerate(content) if 48 <= byte < 58] if path.suffix != ".safetensors" else []
    place = random.choice(digits) if digits else len(content) - 1
    content[place] = 48 + (content[place] - 47) % 10
    path.write_bytes(content)


def cut_in_half(path: Path, random: Random) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_anywhere(path: Path, random: Random) -> None:
    path.write_bytes(path.read_bytes()[: random.randrange(1, path.stat().st_size - 1)])


def without_its_middle(path: Path, random: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] + content[len(content) // 2 :])


def written_twice(path: Path, random: Random) -> None:
    path.write_bytes(path.read_bytes() * 2)


def zeros_at_the_end(path: Path, random: Random) -> None:
    """As a power cut leaves it on some file systems."""
    content = path.read_bytes()
    kept = len(content) * 2 // 3
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


def random_bytes(path: Path, random: Random) -> None:
    path.write_bytes(random.randbytes(path.stat().st_size))


def huge(path: Path, random: Random) -> None:
    """A sparse file, which takes no room."""
    path.unlink()
    with path.open("wb") as file:
        file.truncate(HUGE)


def a_folder(path: Path, random: Random) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path, random: Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _holding(content: bytes) -> Damage:
    return lambda path, random: path.write_bytes(content) and None


WAYS: dict[str, Damage] = {
    "flipped bit": flipped_bit,
    "another flipped bit": flipped_bit,
    "changed digit": changed_digit,
    "cut in half": cut_in_half,
    "cut anywhere": cut_anywhere,
    "without its middle": without_its_middle,
    "written twice": written_twice,
    "zeros at the end": zeros_at_the_end,
    "random bytes": random_bytes,
    "huge": huge,
    "a folder": a_folder,
    "a pipe": a_pipe,
    "empty": _holding(b""),
    "null": _holding(b"null\n"),
    "a list": _holding(b"[1, 2, 3]\n"),
    "a number": _holding(b"42\n"),
    "an empty object": _holding(b"{}\n"),
    "nested 100,000 deep": _holding(b"[" * DEEP + b"]" * DEEP),
    "Latin-1": _holding('{"name": "Käse"}\n'.encode("latin-1")),
    "of other keys": _holding(json.dumps({"step": "one", "run": [], "data": {}}).encode() + b"\n"),
}


def restore(copy: Path, original: Path) -> None:
    """Makes a folder what another one is."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
