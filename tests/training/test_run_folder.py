import json
import shutil
from pathlib import Path

import pytest
import torch

from restore_vlm.errors import UserError
from restore_vlm.runtime.tensors import read_tensors, write_tensors
from restore_vlm.training import Progress, RunConfig, RunFolder, run

SETTINGS = ("training.epochs=2", "training.batch=2", "prompts.depth=1")


def request(photos: Path) -> RunConfig:
    return RunConfig(
        data=str(photos), method="ivlp", shots=2, precision="fp32", settings=SETTINGS, log_shift=True
    )


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run(request(photos), folder := tmp_path_factory.mktemp("whole"))
    return folder


@pytest.fixture(scope="module")
def half(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second epoch."""

    def stop(done: int, total: int, metrics: dict) -> None:
        if done == 6:
            raise Stopped

    folder = tmp_path_factory.mktemp("half") / "run"
    with pytest.raises(Stopped):
        run(request(photos), folder, Progress(on_step=stop))
    return folder


@pytest.fixture
def copy(half: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(half, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def same(folder: RunFolder, whole: Path) -> bool:
    other = RunFolder(whole)
    pairs = [
        (getattr(f, name).read_bytes() for f in (folder, other)) for name in ("adapter", "metrics", "shift")
    ]
    return all(a == b for a, b in pairs)


def test_it_ends_with_the_same_bits(photos: Path, copy: RunFolder, whole: Path) -> None:
    run(request(photos), copy.path)
    assert same(copy, whole)


def test_a_line_that_a_kill_cut_off_is_forgotten(photos: Path, copy: RunFolder, whole: Path) -> None:
    for path in (copy.metrics, copy.shift):
        with path.open("a") as file:
            file.write('{"step": 5, "epo')
    run(request(photos), copy.path)
    assert same(copy, whole)


def test_every_flipped_bit_of_a_checkpoint_is_found(photos: Path, copy: RunFolder) -> None:
    content = bytearray(copy.checkpoint.read_bytes())
    for place in range(200, len(content), len(content) // 9):
        content[place] ^= 4
        copy.checkpoint.write_bytes(content)
        with pytest.raises(
            UserError, match=r"checkpoint\.safetensors is damaged .* remove it to train from the"
        ):
            run(request(photos), copy.path)
        content[place] ^= 4


@pytest.mark.parametrize("name", ["metrics", "shift"])
def test_a_damaged_log_is_not_lost_in_silence(photos: Path, copy: RunFolder, name: str, whole: Path) -> None:
    path: Path = getattr(copy, name)
    text = path.read_text()
    for damaged in (
        text.replace('"loss": ', '"loss": 1', 1),
        f"null\n{text}",
        text.replace("\n", " ", 1),
        text + text,
    ):
        path.write_text(damaged)
        with pytest.raises(UserError, match=rf"{name}\.jsonl is damaged .*line \d.* remove it to go on"):
            run(request(photos), copy.path)
    path.write_text(text)
    run(request(photos), copy.path)
    assert same(copy, whole)


def test_a_log_that_ends_too_early(photos: Path, copy: RunFolder) -> None:
    for path, last in ((copy.metrics, "step 4"), (copy.shift, "epoch 1")):
        lines = path.read_text().splitlines(keepends=True)
        for kept in (lines[:-1], []):
            path.write_text("".join(kept))
            with pytest.raises(UserError, match=f"it ends before {last}, that of the checkpoint"):
                run(request(photos), copy.path)
        path.write_text("".join(lines))


def test_without_its_checkpoint_it_starts_anew_whatever_was_logged(
    photos: Path, copy: RunFolder, whole: Path
) -> None:
    copy.checkpoint.unlink()
    copy.metrics.write_text("nonsense\nand more\n")
    run(request(photos), copy.path)
    assert same(copy, whole)


def test_a_checkpoint_of_another_run(photos: Path, copy: RunFolder) -> None:
    tensors, header = read_tensors(copy.checkpoint)
    name = next(n for n in tensors if n.startswith("model."))
    momentum = next(n for n in tensors if n.startswith("optimiser.momentum_buffer"))
    for changed, of in (
        ({n: t for n, t in tensors.items() if n != name}, header),
        (tensors | {name: torch.ones(7)}, header),
        (tensors | {momentum: torch.ones(7)}, header),
        (tensors | {"optimiser.momentum_buffer.nowhere": torch.ones(7)}, header),
    ):
        write_tensors(copy.checkpoint, changed, of)
        with pytest.raises(UserError, match="it is of another run"):
            run(request(photos), copy.path)
    copy.metrics.unlink()
    copy.shift.unlink()
    write_tensors(copy.checkpoint, tensors, header | {"step": 99})
    with pytest.raises(UserError, match="it is of another run"):
        run(request(photos), copy.path)
    write_tensors(copy.checkpoint, tensors, {"step": -1, "seconds": 1.0, "scaler": {}})
    with pytest.raises(UserError, match="its header: step"):
        run(request(photos), copy.path)


def test_another_process_is_training_into_it(photos: Path, copy: RunFolder) -> None:
    before = {p.name: p.read_bytes() for p in copy.path.iterdir()}
    with copy.lock(), pytest.raises(UserError, match="Another process is training into"):
        run(request(photos), copy.path)
    assert {p.name: p.read_bytes() for p in copy.path.iterdir()} == before


def test_a_changed_configuration(photos: Path, copy: RunFolder) -> None:
    text = copy.config.read_text()
    copy.config.write_text(text.replace("seed = 1", "seed = 3"))
    with pytest.raises(
        UserError, match=r"config\.toml is damaged .* or remove its last line if you changed it"
    ):
        run(request(photos), copy.path)
    copy.config.write_text("\n".join(text.splitlines()[:-1]))
    run(request(photos), copy.path)


def test_files_that_are_written_again(photos: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.images.write_text("[]")
    folder.adapter.write_text("")
    run(request(photos), folder.path)
    assert folder.read_images() == RunFolder(whole).read_images() and same(folder, whole)
    assert json.loads(folder.images.read_text())["sha256"]
