"""Figures from a small real grid: three files each, with the grid's own numbers."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from restore_vlm import UserError
from restore_vlm.study import Record, read_records
from restore_vlm.study.figures import MAP, NAMES, draw, write
from study.conftest import METHODS


@pytest.fixture(scope="module")
def records(grid: Path) -> list[Record]:
    return read_records([grid])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def one(records: list[Record], method: str, dataset: str, part: str) -> Record:
    (found,) = [
        r for r in records if (r.method, r.dataset, r.part, len(r.settings)) == (method, dataset, part, 3)
    ]
    return found


def drawn(name: str, records: list[Record], root: Path, folder: Path) -> list[dict[str, str]]:
    caption = write(name, records, folder, root).caption
    assert caption.endswith(".")
    assert (folder / f"{name}.svg").read_text().startswith("<?xml")
    with Image.open(folder / f"{name}.png") as image:
        assert image.width > 400 and len(image.convert("L").getcolors(256) or ()) > 10
    return rows(folder / f"{name}.csv")


def test_true_class(records: list[Record], root: Path, tmp_path: Path) -> None:
    found = drawn("true-class", records, root, tmp_path)
    assert [r["method"] for r in found[::2]] == list(METHODS)
    mine = [one(records, "vpt", d, "novel") for d in ("split", "plain")]
    (row,) = [r for r in found if (r["method"], r["half"]) == ("vpt", "novel")]
    assert float(row["accuracy"]) == pytest.approx(sum(r.accuracy for r in mine) / 2, rel=1e-5)
    shares = [float(v) for k, v in row.items() if k.startswith("share")]
    assert len(shares) == 20 and sum(shares) == pytest.approx(1, abs=1e-4)


def test_discrepancy_against_gain(records: list[Record], root: Path, tmp_path: Path) -> None:
    found = drawn("discrepancy-gain", records, root, tmp_path)
    assert len(found) == (len(METHODS) - 1) * 2 * 2
    for row in found:
        r = one(records, row["method"], row["dataset"], row["half"])
        zero = one(records, "clip", row["dataset"], row["half"])
        assert float(row["gain"]) == pytest.approx(r.accuracy - zero.accuracy, rel=1e-4, abs=1e-4)
        assert r.shift and float(row["discrepancy"]) == pytest.approx(r.shift["total_discrepancy"], rel=1e-4)


def test_one_tower_does_not_move(records: list[Record], root: Path, tmp_path: Path) -> None:
    found = {r["method"]: r for r in drawn("shift-accuracy", records, root, tmp_path)}
    assert list(found) == ["vpt", "lpt", "ivlp", "ivlp_fs", "restore"]
    assert float(found["vpt"]["shift_text"]) == 0 < float(found["vpt"]["shift_image"])
    assert float(found["lpt"]["shift_image"]) == 0 < float(found["lpt"]["shift_text"])


def test_blocks(records: list[Record], root: Path, tmp_path: Path) -> None:
    found = drawn("shift-blocks", records, root, tmp_path)
    mine = [one(records, "ivlp", d, "base").shift for d in ("split", "plain")]
    expected = sum(s["image"][2]["relative"]["mean"] for s in mine if s) / 2
    (row,) = [r for r in found if (r["method"], r["tower"], r["block"]) == ("ivlp", "image", "3")]
    assert float(row["shift"]) == pytest.approx(expected, rel=1e-4)


def test_ablation_is_paired(records: list[Record], root: Path, tmp_path: Path) -> None:
    found = drawn("ablation", records, root, tmp_path)
    assert {r["variant"] for r in found} == {"without surgery", "without L_fs"}
    changed = [r for r in records if "surgery=none" in r.settings and r.part == "base"]
    differences = [r.accuracy - one(records, "restore", r.dataset, "base").accuracy for r in changed]
    (row,) = [r for r in found if (r["variant"], r["score"]) == ("without surgery", "base")]
    assert float(row["difference"]) == pytest.approx(sum(differences) / 2, abs=1e-4)
    assert row["n"] == row["datasets"] == "2"


def test_sensitivity_has_the_methods_own_value(records: list[Record], root: Path, tmp_path: Path) -> None:
    found = drawn("sensitivity", records, root, tmp_path)
    assert [(float(r["value"]), r["own"]) for r in found if r["score"] == "HM"] == [(1, "1"), (3, "0")]


def test_map(records: list[Record], root: Path, tmp_path: Path) -> None:
    found = drawn(MAP, records, root, tmp_path)
    assert len(found) == 3 * 4 * (4 + 1)
    assert {r["method"] for r in found} == {"clip", "coop", "restore"}
    assert len({r["class"] for r in found}) == 4


def test_the_same_bytes_again(records: list[Record], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write("shift-accuracy", records, tmp_path / folder)
    for suffix in ("png", "svg", "csv"):
        a, b = (tmp_path / f / f"shift-accuracy.{suffix}" for f in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()


def test_seeds_give_error_bars(records: list[Record]) -> None:
    assert "one seed, hence no error bars" in draw("true-class", records).caption
    again = [replace(r, seed=2) for r in records]
    drawing = draw("true-class", [*records, *again])
    assert "standard deviation over 2 seeds" in drawing.caption
    assert {row["accuracy_std"] for row in drawing.rows} == {0.0}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_draw(name: str, records: list[Record], root: Path) -> None:
    elsewhere = [replace(r, source="another") for r in records]
    with pytest.raises(UserError, match=r"No run is tested on base|is among the runs|was changed"):
        draw(name, elsewhere, root)


def test_what_a_figure_needs_is_named(records: list[Record], root: Path) -> None:
    no_shift = [replace(r, result={k: v for k, v in r.result.items() if k != "shift"}) for r in records]
    with pytest.raises(UserError, match="feature shift measured; run restore-vlm shift"):
        draw("shift-blocks", no_shift)
    learned = [r for r in records if r.method != "clip"]
    with pytest.raises(UserError, match="add the method clip"):
        draw("discrepancy-gain", learned)
    with pytest.raises(UserError, match="Only zero-shot is among the runs"):
        draw("discrepancy-gain", [r for r in records if r.method == "clip"])
    with pytest.raises(UserError, match="No dataset has runs of all of clip, coop, restore"):
        draw(MAP, learned, root)
    with pytest.raises(UserError, match="--root"):
        draw(MAP, records)
    with pytest.raises(UserError, match=r"Unknown figure 'true-clas'; did you mean 'true-class'"):
        draw("true-clas", records)


def test_one_class(records: list[Record]) -> None:
    alone = [replace(r, result={**r.result, "classes": ["dog"]}) for r in records]
    with pytest.raises(UserError, match="one base class only"):
        draw("true-class", alone)


def test_few_images(records: list[Record], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from restore_vlm.study import embedding_map

    monkeypatch.setattr(embedding_map, "IMAGES", 2)
    with pytest.raises(UserError, match="too few for t-SNE's perplexity of 15"):
        draw(MAP, records, root)


def test_umap_is_an_extra(records: list[Record], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(UserError, match=r"pip install 'restore-vlm\[umap\]'"):
        draw(MAP, records, root, umap=True)
