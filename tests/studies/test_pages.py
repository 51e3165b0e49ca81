"""The study regenerates from a grid, and its text agrees with its numbers."""

import csv
import re
from pathlib import Path

import pytest
from studies.restore.claims import judge
from studies.restore.pages import BEGIN, END, regenerate, with_table
from typer.testing import CliRunner

from restore_vlm import UserError, cli
from restore_vlm.figures import read_records
from restore_vlm.figures.registry import NAMES

DOCS = Path(__file__).parents[2] / "docs" / "study"
CITED = re.compile(r"(-?\d+(?:\.\d+)?)<!-- ([^|>]+?) \| ([^|>]+?) \| ([^|>]+?) -->")
"""``NUMBER<!-- FILE | COLUMN=VALUE; COLUMN=VALUE | COLUMN -->``: where a number of the text is from."""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_everything_is_regenerated(grid: Path, root: Path, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    command = ["study", "mini", "--grid", str(grid), "--root", str(root), "--docs", str(tmp_path)]
    result = CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert result.exit_code == 0 and "Claims" in result.stdout
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == {*NAMES, "discrepancy-gain-summary"}
    table = (tmp_path / "mini-base-to-novel.md").read_text()
    assert "base-to-novel, average over 2 datasets" in table and "| restore |" in table
    found = rows(tmp_path / "claims.csv")
    assert len(found) == len(judge(read_records([grid]))) >= 17
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert all(row["measured"] in text for row in found)
    first = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    regenerate(grid, root, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == first


def test_claims_are_about_runs_that_are_there(grid: Path) -> None:
    records = read_records([grid])
    with pytest.raises(UserError, match="surgery=none, which is not among the runs"):
        judge([r for r in records if "surgery=none" not in r.settings])
    with pytest.raises(UserError, match="The claims are about lpt on novel classes"):
        judge([r for r in records if r.method != "lpt"])


def test_the_table_of_the_study_is_that_of_its_numbers() -> None:
    text = (DOCS / "README.md").read_text()
    shown = [line.split(" | ") for line in text.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]]
    found = rows(DOCS / "claims.csv")
    assert len(shown) == len(found)
    for cells, row in zip(shown, found, strict=True):
        assert cells[0] == f"| {row['claim']}" and cells[1] == row["measured"]
        assert cells[3].split()[0] == f"{float(row['estimate']):.2f}"
        assert cells[4] == f"{row['verdict']} |"
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
