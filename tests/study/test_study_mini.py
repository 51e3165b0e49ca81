"""One command makes a study's pages from its finished grid."""

import csv
import shutil
import sys
from pathlib import Path

import pytest

from restore_vlm import cli
from restore_vlm.study.figures import NAMES

PAGE = """# Study

<!-- claims -->
old
<!-- end of claims -->

Prose.
"""


def main(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["restore-vlm", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_study_mini(grid: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "README.md").write_text(PAGE)
    assert main(monkeypatch, "study", "mini", "--grid", grid, "--root", root, "--docs", docs) == 0
    names = {p.name for p in (docs / "figures").iterdir()}
    assert names == {f"{n}.{s}" for n in NAMES for s in ("png", "svg", "csv")} | {
        "discrepancy-gain-summary.csv"
    }
    assert {p.name for p in docs.glob("mini-*")} == {"mini-base-to-novel.md", "mini-base-to-novel.csv"}
    assert "| restore |" in (docs / "mini-base-to-novel.md").read_text()
    with (docs / "claims.csv").open() as file:
        claims = list(csv.DictReader(file))
    page = (docs / "README.md").read_text()
    assert page.startswith("# Study") and page.endswith("Prose.\n") and "old" not in page
    for c in claims:
        (line,) = [one for one in page.splitlines() if f"| {c['measured']} |" in one]
        assert f"| {float(c['estimate']):.2f}" in line
        assert line.endswith(f"| {c['verdict']} |")
    before = {p: p.read_bytes() for p in docs.rglob("*.*")}
    assert main(monkeypatch, "study", "mini", "--grid", grid, "--root", root, "--docs", docs) == 0
    assert {p: p.read_bytes() for p in docs.rglob("*.*")} == before


def test_figures_leave_out_what_cannot_be_drawn(
    grid: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(monkeypatch, "figures", grid, "--out", tmp_path) == 0
    assert {p.stem for p in tmp_path.glob("*.png")} == {*NAMES} - {"embedding-map"}
    told = " ".join(capsys.readouterr().err.split())
    assert "embedding-map left out: The figure embedding-map looks at images" in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["GRID", "--only", "ablatoin"], "Unknown figure 'ablatoin'; did you mean 'ablation'"),
        (["GRID", "--only", ","], "--only names nothing"),
        (["GRID", "--only", "embedding-map"], "with --root"),
        (["GRID", "--only", "embedding-map", "--root", "nowhere"], "There is no folder nowhere"),
        (["nowhere"], "nowhere is neither a run of restore-vlm train nor a grid"),
        (["GRID", "GRID"], "is there twice on"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], sentence: str, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [str(grid) if w == "GRID" else w for w in words]
    assert main(monkeypatch, "figures", *words, "--out", tmp_path / "out") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert sentence in told and "Traceback" not in told
    assert not list(tmp_path.rglob("*.png"))


def test_an_unfinished_grid_is_not_a_study(
    grid: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(grid, tmp_path / "grid")
    for path in (tmp_path / "grid" / "grids").glob("*.json"):
        if "surgery=none" in path.read_text():
            path.unlink()
    code = main(
        monkeypatch, "study", "mini", "--grid", tmp_path / "grid", "--root", root, "--docs", tmp_path / "d"
    )
    assert code == 2
    assert "--set surgery=none, which is not among the runs" in " ".join(capsys.readouterr().err.split())
