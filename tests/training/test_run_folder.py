from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restore_vlm.errors import UserError
from restore_vlm.training import read_tensors, write_atomic, write_tensors

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
headers = st.dictionaries(names, st.one_of(st.integers(-(2**40), 2**40), st.text(), st.lists(st.text())))


@given(
    shapes=st.dictionaries(
        names.filter(lambda n: n != "__metadata__"), st.lists(st.integers(0, 4), max_size=3)
    ),
    header=headers,
)
def test_tensors_and_header_come_back(tmp_path_factory, shapes: dict, header: dict) -> None:
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    write_tensors(path, tensors, header)
    back, back_header = read_tensors(path)
    assert back_header == header
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[n], tensors[n]) for n in tensors)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64, b'{"a": 1}'])
def test_a_file_that_is_not_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"adapter\.safetensors is damaged"):
        read_tensors(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finished run"):
        read_tensors(tmp_path / "adapter.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, "old")
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(UserError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
