"""Figures from a small real grid: three files each, with the grid's own numbers."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from scipy import stats

from bench.small_grid import METHODS
from restore_vlm import UserError
from restore_vlm.figures import Record, read_records
from restore_vlm.figures.registry import MAP, NAMES, draw, write
from restore_vlm.figures.runs import runs_of
from restore_vlm.figures.shift import gain_points


@pytest.fixture(scope="module")
def records(grid: Path) -> list[Record]:
    return read_records([grid])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def one(records: list[Record], method: str, dataset: str, part: str) -> Record:
    (found,) = [
        r for r in records if (r.method, r.dataset, r.part, r.settings) == (method, dataset, part, ())
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


def test_correlations_beside_the_points(records: list[Record], root: Path, tmp_path: Path) -> None:
    drawn("discrepancy-gain", records, root, tmp_path)
    novel = [p for p in gain_points(runs_of(records)) if p["half"] == "novel"]
    x, y = ([p[name] for p in novel] for name in ("discrepancy", "gain"))
    summary = {(r["half"], r["points"]): r for r in rows(tmp_path / "discrepancy-gain-summary.csv")}
    row = summary["novel", "all points"]
    assert float(row["value"]) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-4)
    assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    assert row["over"] == f"{len({p['method'] for p in novel})} methods x 2 datasets"


def test_methods_that_move_no_tower_are_no_points(records: list[Record], root: Path, tmp_path: Path) -> None:
    still = [replace(r, method="linear_probe") for r in records if r.method == "clip"]
    found = drawn("discrepancy-gain", [*records, *still], root, tmp_path)
    assert "linear_probe" not in {r["method"] for r in found}
    caption = draw("discrepancy-gain", [*records, *still]).caption
    assert "Left out, as neither tower moves: linear_probe." in caption


def test_gain_is_over_zero_shot_of_the_same_seed(records: list[Record]) -> None:
    def other(record: Record, accuracy: float) -> Record:
        return replace(record, seed=2, result={**record.result, "accuracy": accuracy})

    mine = [r for r in records if r.method in ("clip", "vpt")]
    second = [other(r, 0.25 if r.method == "clip" else 0.75) for r in mine]
    points = gain_points(runs_of([*mine, *second]))
    assert {p["gain"] for p in points if p["seed"] == 2} == {50.0}
    alone = gain_points(runs_of([*mine, *(r for r in second if r.method == "vpt")]))
    zero = {(r.dataset, r.part): r.accuracy for r in mine if r.method == "clip"}
    for p in alone:
        if p["seed"] == 2:
            assert p["gain"] == pytest.approx(75 - zero[p["dataset"], p["half"]])


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
    assert {r["variant"] for r in found} == {"without surgery", "without L_fs", "L_fs by embeddings"}
    changed = [r for r in records if "surgery=none" in r.settings and r.part == "base"]
    differences = [r.accuracy - one(records, "restore", r.dataset, "base").accuracy for r in changed]
    (row,) = [r for r in found if (r["variant"], r["score"]) == ("without surgery", "base")]
    assert float(row["difference"]) == pytest.approx(sum(differences) / 2, abs=1e-4)
    assert row["over"] == "2 datasets x 1 seed"


def test_sensitivity_has_the_methods_own_value(records: list[Record], root: Path, tmp_path: Path) -> None:
    found = drawn("sensitivity", records, root, tmp_path)
    points = [(float(r["value"]), r["own"]) for r in found if r["score"] == "HM"]
    assert sorted(points) == [(0.01, "1"), (0.03, "0"), (1, "1"), (3, "0")]


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
    with pytest.raises(
        UserError, match="feature shift measured on base or novel classes; run restore-vlm shift"
    ):
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


def test_one_run_twice_is_refused(records: list[Record]) -> None:
    few = [replace(r, shots=1) for r in records if r.method == "vpt" and r.dataset == "split"]
    with pytest.raises(UserError, match=r"vpt is there twice on split, base, seed 1 \(2 and 1 shots\)"):
        draw("true-class", [*records, *few])


def test_methods_with_fewer_datasets_are_named(records: list[Record]) -> None:
    assert "fewer" not in draw("true-class", records).caption
    some = [r for r in records if (r.method, r.dataset) != ("vpt", "plain")]
    assert "With fewer datasets or seeds: vpt." in draw("true-class", some).caption


def test_map_of_another_dataset(records: list[Record], root: Path) -> None:
    assert {r["class"] for r in draw(MAP, records, root, dataset="split").rows} == {
        p.name for p in (root / "split" / "test").iterdir()
    }
    with pytest.raises(UserError, match="12 points are too few for t-SNE's perplexity of 15"):
        draw(MAP, records, root, dataset="plain")
    with pytest.raises(UserError, match="Unknown dataset of these runs 'plan'; did you mean 'plain'"):
        draw(MAP, records, root, dataset="plan")
    some = [r for r in records if (r.method, r.dataset) != ("coop", "plain")]
    with pytest.raises(UserError, match="plain does not have runs of all of"):
        draw(MAP, some, root, dataset="plain")


def test_one_class(records: list[Record]) -> None:
    alone = [replace(r, result={**r.result, "classes": ["dog"]}) for r in records]
    with pytest.raises(UserError, match="one base class only"):
        draw("true-class", alone)


def test_few_images(records: list[Record], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from restore_vlm.figures import embedding_map

    monkeypatch.setattr(embedding_map, "IMAGES", 2)
    with pytest.raises(UserError, match="too few for t-SNE's perplexity of 15"):
        draw(MAP, records, root)


def test_umap_is_an_extra(records: list[Record], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(UserError, match=r"pip install 'restore-vlm\[umap\]'"):
        draw(MAP, records, root, umap=True)


@pytest.mark.parametrize("name", ["discrepancy-gain", "shift-accuracy", "shift-blocks"])
def test_figures_of_blocks_that_are_not_shown(name: str, resnet_grid: Path) -> None:
    with pytest.raises(UserError, match=r"look at blocks, and a tower of .*clip shows none"):
        draw(name, read_records([resnet_grid]))


def test_other_figures_need_no_blocks(resnet_grid: Path, root: Path, tmp_path: Path) -> None:
    assert drawn("true-class", read_records([resnet_grid]), root, tmp_path)
