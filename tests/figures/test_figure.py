"""Tables of numbers, and the specifications of pictures and pages."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_vlm import UserError
from restore_vlm.figures.figure import Figure, Numbers, Panel, csv_text, read_csv, rows_chart
from restore_vlm.figures.style import VARIABLES, tip

ROWS = [{"x": 1, "y": 2.5}, {"x": 2, "y": 7.0}]


def panel(rows: list[dict]) -> Panel:
    chart = rows_chart().mark_point(color="#0072b2").encode(x="x:Q", y="y:Q", tooltip=tip("y:Q"))
    return Panel("Title", chart, rows, ("below",))


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda t: not _number(t))


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@given(st.lists(st.tuples(words, st.none() | st.integers(-99, 99), st.floats(-1e3, 1e3)), min_size=1))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, content: list[tuple]) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    rows = [{"name": name, "n": n, "value": value} for name, n, value in content]
    path.write_text(csv_text(rows), newline="")
    for found, row in zip(read_csv(path), rows, strict=True):
        assert (found["name"], found["n"]) == (row["name"], row["n"])
        assert found["value"] == pytest.approx(row["value"], rel=1e-5, abs=1e-300)


def test_a_picture_has_the_rows_of_each_panel() -> None:
    other = [{"x": 3, "y": 1}]
    spec = Figure("name", Numbers(ROWS, ""), [panel(ROWS), panel(other)]).spec()
    assert [spec["datasets"][part["data"]["name"]] for part in spec["concat"]] == [ROWS, other]
    assert spec["concat"][0]["title"] == {"text": "Title", "subtitle": ["below"]}
    assert "http" not in json.dumps({k: v for k, v in spec.items() if k != "$schema"})


def test_the_page_has_the_chart_of_the_picture() -> None:
    printed, shown = panel(ROWS).print_spec(0), panel(ROWS).page_spec("Said.")
    assert printed["encoding"] == shown["encoding"] and printed["data"]["name"] == "rows0"
    assert shown["mark"]["color"] == f"var({VARIABLES['#0072b2']})"
    assert shown["description"] == "Title. Said." and shown["width"] == "container"
    assert "#" not in json.dumps(shown)


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        Figure("name", Numbers(ROWS, ""), [panel(ROWS)]).save(tmp_path / "file")
