import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import restore_vlm
from restore_vlm.errors import UserError
from restore_vlm.runtime.files import (
    LARGEST,
    DamagedFile,
    add_lines,
    read_bytes,
    read_json,
    read_lines,
    read_text,
    read_toml,
    write_atomic,
    write_json,
    write_lines,
    write_toml,
)

ADVICE = "make it anew"
DEEP = "[" * 100_000


class Line(BaseModel):
    step: int
    loss: float


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
values = st.recursive(
    leaves, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.text(max_size=5), v))
)
objects = st.dictionaries(
    st.text(max_size=8).filter(lambda k: k not in ("sha256", "crc32")), values, max_size=4
)
slow = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], deadline=None
)


@slow
@given(content=objects)
def test_json_comes_back_whatever_its_layout(tmp_path: Path, content: dict) -> None:
    path = tmp_path / "x.json"
    write_json(path, content)
    assert read_json(path, dict, ADVICE) == content
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert read_json(path, dict, ADVICE) == content


@slow
@given(lines=st.lists(objects, max_size=4), cut=st.integers(1, 9))
def test_lines_come_back_but_for_one_cut_off(tmp_path: Path, lines: list[dict], cut: int) -> None:
    path = tmp_path / "x.jsonl"
    write_lines(path, lines)
    add_lines(path, [{"step": 1}])
    assert read_lines(path, dict, ADVICE) == [*lines, {"step": 1}]
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_lines(path, dict, ADVICE) == [*lines, {"step": 1}][: None if cut == 1 else -1]


def test_lines_of_no_file(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "x.jsonl", dict, ADVICE) == []
    add_lines(tmp_path / "x.jsonl", [])
    assert not (tmp_path / "x.jsonl").exists()


FILES = {
    "x.json": (write_json, read_json, {"step": 1, "loss": 0.25, "name": "Käse"}),
    "x.toml": (write_toml, read_toml, {"step": 1, "loss": 0.25, "name": "Käse"}),
    "x.jsonl": (write_lines, read_lines, [{"step": 1, "loss": 0.25}, {"step": 2, "loss": 0.125}]),
}


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    write, read, content = FILES[name]
    path = tmp_path / name
    write(path, content)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                found = read(path, Line, ADVICE)
            except DamagedFile as error:
                assert str(error).endswith((f"; {ADVICE}.", "changed it yourself."))
                continue
            same = [{k: v for k, v in one.items() if k in ("step", "loss", "name")} for one in _each(found)]
            assert same == _each(content)  # the key of the checksum itself, or layout


def _each(content: dict | list[dict]) -> list[dict]:
    return content if isinstance(content, list) else [content]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [b"null", b"[1, 2]", b"3", b"{}", b'"text"', DEEP.encode(), b'{"a":' * 100_000, b"\xe4\xf6",
     bytes(range(1, 256)), b'{"step": "1", "loss": 0.5}', b'{"step": 1, "loss": null}', b"\0" * 9,
     b"\xef\xbb\xbf{}", b"1e999999\n", b"9" * 5000, b"a = " + DEEP.encode(),
     b"[a]\n[a]", b"\xff\xfe{\0}\0"],
)  # fmt: skip
def test_other_content(tmp_path: Path, name: str, damage: bytes) -> None:
    _, read, _ = FILES[name]
    (tmp_path / name).write_bytes(damage + b"\n")
    with pytest.raises(DamagedFile, match=rf"{name} is damaged \(.+\); make it anew\."):
        read(tmp_path / name, Line, ADVICE)


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    _, read, _ = FILES[name]
    path = tmp_path / name
    if read is not read_lines:
        with pytest.raises(UserError, match=rf"There is no {name} in .*; make it anew"):
            read(path, Line, ADVICE)
    path.mkdir()
    with pytest.raises(DamagedFile, match="it is a folder"):
        read(path, Line, ADVICE)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(DamagedFile, match="no ordinary file"):
        read(path, Line, ADVICE)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(DamagedFile, match="1,073,741,825 bytes"):
        read(path, Line, ADVICE)


def test_files_without_checksums(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"step": 1, "loss": 1}')
    (tmp_path / "x.toml").write_text("step = 1\nloss = 1\n")
    (tmp_path / "x.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2, "lo')
    assert read_json(tmp_path / "x.json", Line, ADVICE) == {"step": 1, "loss": 1}
    assert read_toml(tmp_path / "x.toml", Line, ADVICE) == {"step": 1, "loss": 1}
    assert read_lines(tmp_path / "x.jsonl", Line, ADVICE) == [{"step": 1, "loss": 1}]


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"photo-\udce4.jpg": "1"})
    assert read_json(tmp_path / "x.json", dict[str, str], ADVICE) == {"photo-\udce4.jpg": "1"}
    with pytest.raises(UserError, match="a name in it is not UTF-8"):
        write_toml(tmp_path / "x.toml", {"data": "photo-\udce4.jpg"})
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_text_of_a_person(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\rcow\n")
    assert read_text(tmp_path / "a.txt") == "cat\ndog\ncow\n"
    (tmp_path / "a.txt").write_bytes(b"K\xe4se")
    with pytest.raises(UserError, match="not UTF-8 text; save it as UTF-8"):
        read_text(tmp_path / "a.txt")
    for path in (tmp_path / "b.txt", tmp_path / "a.txt" / "b", Path("a\0b"), Path("a" * 5000)):
        with pytest.raises(UserError, match="check the path"):
            read_bytes(path, "check the path")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, "old")
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(UserError, match=r"No space left on device; make room for it\."):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def _write_often(path: Path, letter: str) -> None:
    for _ in range(100):
        write_atomic(path, letter * 100_000)


def test_processes_that_write_the_same_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(tmp_path / "x", letter)) for letter in "abc"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if (tmp_path / "x").exists():
            text = (tmp_path / "x").read_text()
            assert len(text) == 100_000 and len(set(text)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_that_a_killed_process_left_half_written(tmp_path: Path) -> None:
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom restore_vlm.runtime.files import write_atomic\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(Path('x'), 'new' * 1000)\n"
    )
    (tmp_path / "x").write_text("old")
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == -9
    assert (tmp_path / "x").read_text() == "old"
    write_atomic(tmp_path / "x", "newer")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "newer")]


def test_nothing_else_reads_or_parses_files() -> None:
    """Photos and downloads apart, which are not ours and are checked where they are decoded."""
    root = Path(restore_vlm.__file__).parent
    ways = (
        "json.load",
        "tomllib",
        ".read_text(",
        ".read_bytes(",
        "safe_open",
        "load_file",
        "torch.load",
        "pickle",
    )
    found = {
        path.relative_to(root).as_posix(): [way for way in ways if way in path.read_text()]
        for path in root.rglob("*.py")
        if path.parent.name != "runtime"
    }
    assert {name: used for name, used in found.items() if used} == {"data/images.py": [".read_bytes("]}
