"""restore-vlm figures: what it says of bad input, and what it leaves out."""

import sys
from pathlib import Path

import pytest

from restore_vlm import cli
from restore_vlm.figures.registry import MAP, NAMES


def figures(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["restore-vlm", "figures", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_all_that_can_be_drawn(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures(monkeypatch, grid, "--out", tmp_path) == 0
    assert {p.stem for p in tmp_path.glob("*.png")} == {*NAMES} - {MAP}
    told = " ".join(capsys.readouterr().err.split())
    assert f"{MAP} left out: The figure {MAP} looks at images" in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["GRID", "--only", "true-class,ablatoin"], "Unknown figure 'ablatoin'; did you mean 'ablation'"),
        (["GRID", "--only", ","], "--only names nothing"),
        (["GRID", "--only", MAP], "with --root"),
        (["GRID", "--only", MAP, "--root", "nowhere"], "There is no folder nowhere"),
        (["nowhere"], "nowhere is neither a run of restore-vlm train nor a grid"),
        (["GRID", "GRID", "--only", "true-class"], "is there twice on split, base, seed 1"),
        (["GRID", "GRID"], "Nothing could be drawn from these runs"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], sentence: str, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [str(grid) if w == "GRID" else w for w in words]
    assert figures(monkeypatch, *words, "--out", tmp_path) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert sentence in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())
