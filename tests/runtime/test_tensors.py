import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from restore_vlm.errors import UserError
from restore_vlm.runtime.files import DamagedFile
from restore_vlm.runtime.tensors import HEADER, read_tensors, write_tensors

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
headers = st.dictionaries(
    names,
    st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=9), st.lists(st.text(max_size=9), max_size=3)),
)
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    shapes=st.dictionaries(
        names.filter(lambda n: n != "__metadata__"),
        st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(TYPES)),
    ),
    header=headers,
)
def test_tensors_and_header_come_back(tmp_path_factory, shapes: dict, header: dict) -> None:
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    tensors = {name: torch.randn(shape).to(kind) for name, (shape, kind) in shapes.items()}
    write_tensors(path, tensors, header)
    back, back_header = read_tensors(path)
    assert back_header == header
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[n], tensors[n]) and back[n].dtype == tensors[n].dtype for n in tensors)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tensors = {"a": torch.arange(3.0), "b": torch.tensor(2, dtype=torch.int64)}
    write_tensors(tmp_path / "adapter.safetensors", tensors, {"step": 3, "names": ["cat", "Käse"]})
    return tmp_path / "adapter.safetensors"


def test_the_same_tensors_are_the_same_bytes(file: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from restore_vlm.runtime.tensors import read_tensors, write_tensors\n"
        "write_tensors(Path(sys.argv[1]), *read_tensors(Path(sys.argv[1])))\n"
    )
    before = file.read_bytes()
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, str(file)], check=True)
        assert file.read_bytes() == before


def test_every_flipped_bit_is_found(file: Path) -> None:
    whole, before = file.read_bytes(), read_tensors(file)
    for place in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                tensors, header = read_tensors(file)
            except DamagedFile:
                continue
            # The name of the checksum, or layout that says nothing.
            assert header.items() >= before[1].items() and all(
                torch.equal(tensors[n], before[0][n]) for n in "ab"
            )


def test_what_was_read_does_not_change_with_the_file(file: Path) -> None:
    tensors, _ = read_tensors(file)
    file.write_bytes(bytes(file.stat().st_size))
    assert tensors["a"].tolist() == [0, 1, 2]


def test_every_truncation_is_found(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match=r"adapter\.safetensors is damaged"):
            read_tensors(file)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64, b'{"a": 1}', b"\0" * 4096])
def test_a_file_that_is_not_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"adapter\.safetensors is damaged"):
        read_tensors(path)


OURS = {"__metadata__": {HEADER: "{}"}}
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        OURS | {"a": ONE | {"shape": [-1]}},
        OURS | {"a": ONE | {"shape": [2**63]}},
        OURS | {"a": ONE | {"shape": [2**32, 2**32]}},
        OURS | {"a": ONE | {"dtype": "F4096"}},
        OURS | {"a": ONE | {"data_offsets": [0, 2**62]}},
        OURS | {"a": ONE | {"data_offsets": [4, 0]}},
        OURS | {"a": ONE, "b": ONE},
        OURS | {"a": ONE | {"data_offsets": [-4, 0]}},
        {"__metadata__": {"other": "x"}, "a": ONE},
        {"__metadata__": {HEADER: "[" * 100_000}, "a": ONE},
        {"__metadata__": {HEADER: "null"}, "a": ONE},
        {"__metadata__": {HEADER: "[1]"}, "a": ONE},
        {"__metadata__": {HEADER: 3}, "a": ONE},
        {"__metadata__": {HEADER: '{"sha256": "0"}'}, "a": ONE},
        {"__metadata__": {HEADER: '{"sha256": null}'}, "a": ONE},
    ],
)
def test_hostile_headers(tmp_path: Path, header: dict) -> None:
    path, text = tmp_path / "x.safetensors", json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(DamagedFile, match="is damaged"):
        read_tensors(path)


def test_a_header_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length in (2**40, 2**63, 2**64 - 1, 100_000_001):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(DamagedFile, match="is damaged"):
            read_tensors(path)


def test_a_file_without_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(3.0)}, path, {HEADER: '{"step": 1}'})
    tensors, header = read_tensors(path)
    assert header == {"step": 1} and tensors["a"].tolist() == [0, 1, 2]


def test_a_header_of_another_form(file: Path) -> None:
    with pytest.raises(DamagedFile, match=r"\(its header: step: Input should be a valid integer\); go on"):
        write_tensors(file, {}, {"step": "3"})
        read_tensors(file, dict[str, int], "go on")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finished run"):
        read_tensors(tmp_path / "adapter.safetensors")
    with pytest.raises(DamagedFile, match="no ordinary file"):
        read_tensors(tmp_path)
