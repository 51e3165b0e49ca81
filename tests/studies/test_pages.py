"""The study regenerates from a grid, and its text agrees with its numbers."""

import csv
import re
import shutil
from pathlib import Path
from statistics import mean, stdev

import pytest
from typer.testing import CliRunner

from restore_vlm import UserError
from restore_vlm.evaluation import harmonic_mean
from restore_vlm.figures import read_records
from restore_vlm.figures.registry import NAMES
from restore_vlm.figures.runs import read_runs, runs_of
from studies.restore.__main__ import app
from studies.restore.claims import judge
from studies.restore.pages import BEGIN, END, regenerate, rejudge, with_table

NUMBERS = ("estimate", "low", "high", "p", "p_holm")
DOCS = Path(__file__).parents[2] / "docs" / "study"
CITED = re.compile(r"(-?\d+(?:\.\d+)?)<!-- ([^|>]+?) \| ([^|>]+?) \| ([^|>]+?) -->")
"""``NUMBER<!-- FILE | COLUMN=VALUE; COLUMN=VALUE | COLUMN -->``: where a number of the text is from."""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_everything_is_regenerated(grid: Path, root: Path, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    command = ["write", "--grid", str(grid), "--root", str(root), "--docs", str(tmp_path)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0 and "Claims" in result.stdout
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == {*NAMES, "discrepancy-gain-summary"}
    table = (tmp_path / "mini-base-to-novel.md").read_text()
    assert "base-to-novel, average over 2 datasets" in table and "| restore |" in table
    found = rows(tmp_path / "claims.csv")
    assert len(found) == len(judge(runs_of(read_records([grid])))) >= 17
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert all(row["measured"] in text for row in found)
    first = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    regenerate(grid, root, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == first
    for name in ("claims.csv", "figures/discrepancy-gain.csv"):
        (tmp_path / name).unlink()
    result = CliRunner().invoke(app, ["claims", "--docs", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0 and "Claims" in result.stdout
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == first


def test_claims_need_the_values_of_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runs\.csv cannot be read"):
        rejudge(tmp_path)


def test_claims_and_their_table_come_from_the_values_of_runs(tmp_path: Path) -> None:
    """What is committed is what the command makes of ``runs.csv`` alone."""
    for name in ("runs.csv", "README.md"):
        shutil.copy(DOCS / name, tmp_path)
    rejudge(tmp_path)
    found, kept = rows(tmp_path / "claims.csv"), rows(DOCS / "claims.csv")
    assert len(found) == len(kept)
    for row, other in zip(found, kept, strict=True):
        assert {k: v for k, v in row.items() if k not in NUMBERS} == {
            k: v for k, v in other.items() if k not in NUMBERS
        }
        assert [float(row[k] or "nan") for k in NUMBERS] == pytest.approx(
            [float(other[k] or "nan") for k in NUMBERS], rel=1e-4, nan_ok=True
        )
    assert (tmp_path / "README.md").read_text() == (DOCS / "README.md").read_text()
    for name in ("discrepancy-gain.csv", "discrepancy-gain-summary.csv"):
        made = [[*row.values()] for row in rows(tmp_path / "figures" / name)]
        assert made == [[*row.values()] for row in rows(DOCS / "figures" / name)]


def test_values_of_runs_are_those_of_the_tables() -> None:
    averages: dict[tuple[str, str, str], list[float]] = {}
    for run in read_runs(DOCS / "runs.csv"):
        averages.setdefault((run.dataset, run.method, run.part), []).append(run.accuracy)
    checked = 0
    for row in rows(DOCS / "mini-base-to-novel.csv"):
        dataset = row["table"].split(", ")[1]
        if values := averages.get((dataset, row["method"], row["column"])):
            assert mean(values) == pytest.approx(float(row["mean"]), abs=1e-9)
            assert stdev(values) == pytest.approx(float(row["std"] or 0), abs=1e-9)
            checked += 1
    assert checked == len(averages) > 100


@pytest.mark.parametrize("file", ["mini-base-to-novel.csv", "figures/sensitivity.csv"])
def test_harmonic_means_of_the_tables_are_those_of_their_averages(file: str) -> None:
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows(DOCS / file):
        column, value = (row[k] for k in (("column", "mean") if "column" in row else ("score", "percent")))
        place = tuple(row[k] for k in ("table", "method", "setting", "value") if k in row)
        groups.setdefault(place, {})[column] = float(value)
    for scores in groups.values():
        assert scores["HM"] == pytest.approx(harmonic_mean(scores["base"], scores["novel"]), rel=1e-5)
    average = "base-to-novel, average over 4 datasets, 16 shots", "restore"
    assert file.startswith("figures") or round(groups[average]["HM"], 2) == 26.48


def test_no_claim_holds_that_does_not_survive() -> None:
    found = rows(DOCS / "claims.csv")
    for row in found:
        survives = bool(row["p_holm"]) and float(row["p_holm"]) < 0.05
        assert (row["verdict"] in ("holds", "contradicted")) == survives
    assert "restore - ivlp" in found[-2]["measured"] and found[-2]["verdict"] == "undecided"


def test_the_table_of_the_study_is_that_of_its_numbers() -> None:
    text = (DOCS / "README.md").read_text()
    shown = [line.split(" | ") for line in text.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]]
    found = rows(DOCS / "claims.csv")
    assert len(shown) == len(found)
    for cells, row in zip(shown, found, strict=True):
        assert cells[0] == f"| {row['claim']}" and cells[1] == row["measured"] and cells[3] == row["decided"]
        assert cells[4].split()[:1] == ([f"{float(row['estimate']):.2f}"] if row["estimate"] else [])
        assert cells[6] == f"{row['verdict']} |"
    assert with_table(text, []).count(BEGIN) == 1


def test_numbers_in_the_text_are_those_of_the_tables() -> None:
    cited = CITED.findall((DOCS / "README.md").read_text())
    assert len(cited) >= 10
    for number, file, where, column in cited:
        wanted = dict(part.split("=", 1) for part in where.split("; "))
        found = [r for r in rows(DOCS / file) if all(r[k] == v for k, v in wanted.items())]
        assert len(found) == 1, f"{file}: {where} is {len(found)} rows"
        digits = len(number.partition(".")[2])
        assert f"{float(found[0][column]):.{digits}f}" == number, f"{file}: {where}, {column}"
