"""A grid's folder with damaged files: what is computed is computed again, what decides is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.bench_makers import csv_of, plan_of, request, run, trials
from restore_vlm import cli
from restore_vlm.bench import Results, Store, outlook
from restore_vlm.bench.grid import missing
from restore_vlm.errors import UserError
from restore_vlm.figures import read_records
from restore_vlm.runtime.tensors import read_tensors

ASKED = request("maple")


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grid")
    assert run(root, out, trials("split"), ASKED) == {}
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "grid"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def nest(path: Path) -> None:
    path.write_text("[" * 100_000)


def only(out: Path, pattern: str) -> Path:
    (found,) = out.glob(pattern)
    return found


@pytest.mark.parametrize("damage", [flip, cut, nest])
@pytest.mark.parametrize("part", [0, 1])
def test_a_result_is_named_and_computed_again(
    root: Path, out: Path, damage: Callable[[Path], None], part: int
) -> None:
    before = csv_of(out)
    path = sorted(out.glob("runs/*/tests/*.json"))[part]
    damage(path)
    plan, store = plan_of(root, trials("split"), ASKED), Store(out)
    assert len(missing(plan.jobs, store)) == 1
    (note,) = Results(plan.keys, store).notes()
    assert f"{path} is damaged (" in note and note.endswith("; the same restore-vlm bench computes it again")
    with pytest.raises(UserError, match="is damaged"):
        read_records([out])
    for command in (["compare", str(out), "maple", "maple"], ["table", str(out), "--format", "csv"]):
        result = CliRunner().invoke(cli.app, ["bench", *command])
        assert isinstance(result.exception, UserError) and "is damaged" in str(result.exception)
    table = CliRunner().invoke(cli.app, ["bench", "table", str(out), "--format", "markdown"])
    assert table.exit_code == 0 and f"{path} is damaged" in table.stdout
    outlook(plan, store)
    assert run(root, out, trials("split"), ASKED) == {}
    assert csv_of(out) == before


@pytest.mark.parametrize("damage", [flip, cut, nest])
@pytest.mark.parametrize(
    "name", ["adapter.safetensors", "checkpoint.safetensors", "config.toml", "metrics.jsonl"]
)
def test_a_damaged_training_is_done_again(
    root: Path, out: Path, damage: Callable[[Path], None], name: str
) -> None:
    model, before = only(out, "runs/*/model"), csv_of(out)
    learned = read_tensors(model / "adapter.safetensors")[0]
    damage(model / name)
    if name in ("config.toml", "metrics.jsonl"):  # else the adapter says all that tests need
        (model / "adapter.safetensors").unlink()
    for test in out.glob("runs/*/tests/*.json"):
        test.unlink()
    assert run(root, out, trials("split"), ASKED) == {}
    assert csv_of(out) == before
    again = read_tensors(model / "adapter.safetensors")[0]
    assert all(learned[n].equal(again[n]) for n in learned)


@pytest.mark.parametrize("damage", [flip, cut, nest])
def test_a_damaged_table_is_refused(root: Path, out: Path, damage: Callable[[Path], None]) -> None:
    before, table = csv_of(out), only(out, "grids/*.json")
    damage(table)
    with pytest.raises(UserError, match=r"is damaged .*; remove it and give the restore-vlm bench commands"):
        Store(out).grids()
    with pytest.raises(UserError, match=r"is damaged .*; remove it and give"):
        run(root, out, trials("split"), ASKED)
    table.unlink()
    assert run(root, out, trials("split"), ASKED) == {}
    assert csv_of(out) == before


@pytest.mark.parametrize("damage", [flip, cut, nest])
def test_damaged_labels_and_reasons_are_forgotten(
    root: Path, out: Path, damage: Callable[[Path], None]
) -> None:
    place = Store(out).run(only(out, "runs/*").name)
    assert place.label().startswith("maple, split")
    damage(place.spec)
    assert place.label() == "" and place.failure("none") is None
    place.error.write_text("null")
    assert "error.json is damaged" in (place.failure("none") or "")
    assert outlook(plan_of(root, trials("split"), ASKED), Store(out)).missing.total() == 0


def test_tables_keep_a_row_to_a_line(out: Path) -> None:
    text = only(out, "grids/*.json").read_text()
    assert len(text.splitlines()) == 4 and json.loads(text)["sha256"]


@pytest.mark.parametrize("damage", [flip, cut])
def test_cached_features_are_computed_again(
    root: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    asked = request("clip")
    assert run(root, tmp_path, trials("split"), asked) == {}
    before, caches = csv_of(tmp_path), list(tmp_path.glob("cache/*"))
    whole = [cache.read_bytes() for cache in caches]
    for path in (*caches, *tmp_path.glob("runs/*/tests/*.json")):
        damage(path)
    assert run(root, tmp_path, trials("split"), asked) == {}
    assert csv_of(tmp_path) == before and [cache.read_bytes() for cache in caches] == whole
