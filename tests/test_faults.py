"""A little of ``python tests/faults``, and that it sees what goes wrong."""

import re
from pathlib import Path

import pytest

from faults import folders, fuzz, kills
from faults.outcomes import AGAIN, DIFFERENT, SAME, SENTENCE, TRACEBACK, Tally
from faults.processes import child
from restore_vlm import UserError
from restore_vlm.runtime import files

FEW = ("flipped bit", "nested 100,000 deep")


@pytest.mark.parametrize("name", fuzz.CASES)
def test_what_people_write(name: str) -> None:
    fuzz.run_case(name, 40)


def test_a_damaged_run_folder(photos: Path, tmp_path: Path) -> None:
    tally = Tally()
    folders.damage_run_folder(tmp_path, photos, tally, FEW, ("predict", "train"))
    assert not tally.failures
    assert tally.rows["run folder, `checkpoint.safetensors`"] == {SAME: 1, SENTENCE: 2}
    assert tally.rows["run folder, `adapter.safetensors`"] == {SENTENCE: 2, AGAIN: 1}


def test_kills_and_a_full_disk(photos: Path, tmp_path: Path) -> None:
    tally = Tally()
    for name in ("kills", "disk"):
        (tmp_path / name).mkdir()
    kills.kill_runs(tmp_path / "kills", photos, tally, 2)
    kills.fill_disk(tmp_path / "disk", photos, tally, 1)
    assert not tally.failures
    assert sum(row[SAME] for row in tally.rows.values()) == 3


def test_it_sees_a_traceback_and_a_silent_difference(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(content: object) -> bool:
        if isinstance(content, dict):
            content.pop("sha256", None)
        return True

    def better(path: Path, random: object) -> None:
        content = path.read_bytes()
        path.write_bytes(re.sub(rb'("true_probability": )[0-9.]+', rb"\g<1>0.99", content))

    monkeypatch.setattr(files, "intact", careless)
    monkeypatch.setattr(files, "misfit", lambda content, kind: "")
    tally = Tally()
    monkeypatch.setitem(folders.WAYS, "better", better)
    folders.damage_run_folder(tmp_path, photos, tally, ("null", "better"), ("figures",))
    assert tally.rows["run folder, `evaluation-base.json`"] == {TRACEBACK: 1, DIFFERENT: 1}
    assert "| `evaluation-base.json` | 2 |" in tally.markdown().replace("run folder, ", "")
    assert any("`evaluation-base.json`: TRACEBACK" in failure for failure in tally.failures)


def test_a_child(tmp_path: Path) -> None:
    def refused() -> None:
        raise UserError("no")

    assert child(lambda: None, tmp_path / "log") == 0
    assert child(refused, tmp_path / "log") == 2 and (tmp_path / "log").read_text() == "Error: no\n"
    assert child(lambda: 1 / 0, tmp_path / "log") == 3
