"""The CSV that claims are computed from: every value, read back as written, and what is said of bad ones."""

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore_vlm import UserError
from restore_vlm.figures import read_records
from restore_vlm.figures.runs import COLUMNS, Run, read_runs, runs_of, write_runs
from studies.restore.claims import judge

number = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)


@given(
    runs=st.lists(
        st.builds(
            Run, names, st.sampled_from(["", "a=1", "a=1 b=2"]), names, names, st.integers(0, 99), number,
            *[st.none() | number] * 4,
        ),
        min_size=1,
    )
)  # fmt: skip
def test_what_is_written_is_read(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    write_runs(runs, path)
    assert read_runs(path) == runs


def test_claims_from_the_file_are_those_from_the_grid(grid: Path, tmp_path: Path) -> None:
    runs = runs_of(read_records([grid]))
    assert len(runs) == (8 + 5 + 2) * 2 * 2
    assert {r.changed for r in runs} >= {"", "surgery=none", "surgery=none training.lr=0.03"}
    assert all(getattr(r, f.name) is not None for r in runs for f in fields(r))
    write_runs(runs, tmp_path / "runs.csv")
    assert judge(read_runs(tmp_path / "runs.csv")) == judge(runs)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"", "has no runs"),
        (",".join(COLUMNS).encode(), "has no runs"),
        (b"method,seed\nclip,1\n", "line 2: 'changed'; its columns are method, changed"),
        (f"{','.join(COLUMNS)}\nclip,,a,base,one,50,,,,\n".encode(), "line 2: invalid literal"),
        (f"{','.join(COLUMNS)}\nclip,,a,base\n".encode(), "line 2: "),
    ],
)
def test_a_file_that_cannot_be_read(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_runs(path)
