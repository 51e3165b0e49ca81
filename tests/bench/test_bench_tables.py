import csv
import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from bench.bench_makers import request, stored
from restore_vlm.bench import Results, Store, compare_methods, render, tables
from restore_vlm.bench.compare import show
from restore_vlm.bench.plan import ResultKey
from restore_vlm.errors import UserError
from restore_vlm.evaluation import harmonic_mean
from restore_vlm.evaluation.protocol import Column, EvalSet, Layout, Measure, Protocol, Term
from restore_vlm.evaluation.protocols import PROTOCOLS
from restore_vlm.evaluation.protocols.base_to_novel import PUBLISHED
from restore_vlm.training import write_json


def results_of(tmp_path: Path, protocol: str, rows: list[tuple]) -> Results:
    """Rows: method, source, dataset, part, shots, seed, accuracy in % (None: missing, text: failed)."""
    keys, store = [], Store(tmp_path)
    for method, source, dataset, part, shots, seed, value in rows:
        run = f"{method}-{source}-{shots}-{0 if method == 'clip' else seed}"
        key = ResultKey(protocol, method, source, dataset, part, shots, seed, run, f"{dataset}-{part}")
        keys.append(key)
        if isinstance(value, str):
            write_json(store.run(run).error, {"error": value})
        elif value is not None:
            write_json(store.run(run).test(key.test), stored(value / 100, dataset))
    return Results(keys, store)


def halves(tmp_path: Path, values: dict[tuple[str, str, int], tuple], shots: int = 16) -> Results:
    rows = [
        (method, dataset, dataset, part, shots, seed, value)
        for (method, dataset, seed), pair in values.items()
        for part, value in zip(("base", "novel"), pair, strict=True)
    ]
    return results_of(tmp_path, "base-to-novel", rows)


COMMON = request().conditions() | {"settings": ()}
TWO = {
    ("clip", "a", 1): (60.0, 70.0), ("clip", "a", 2): (60.0, 70.0),
    ("clip", "b", 1): (50.0, 50.0), ("clip", "b", 2): (50.0, 50.0),
    ("maple", "a", 1): (80.0, 60.0), ("maple", "a", 2): (82.0, 64.0),
    ("maple", "b", 1): (70.0, 40.0), ("maple", "b", 2): (72.0, 40.0),
}  # fmt: skip


def lines(text: str) -> dict[tuple[str, str, str], dict[str, str]]:
    return {(r["table"], r["method"], r["column"]): r for r in csv.DictReader(io.StringIO(text))}


def test_base_to_novel(tmp_path: Path) -> None:
    found = tables(COMMON, halves(tmp_path, TWO))
    assert [t.title for t in found] == [
        "base-to-novel, a, 16 shots",
        "base-to-novel, b, 16 shots",
        "base-to-novel, average over 2 datasets, 16 shots",
    ]
    rows = lines(render(found, "csv"))
    mine = rows["base-to-novel, a, 16 shots", "maple", "HM"]
    assert float(mine["mean"]) == pytest.approx(harmonic_mean(81, 62))
    assert mine["best"] == "1"
    zero = rows["base-to-novel, a, 16 shots", "clip", "novel"]
    assert (float(zero["mean"]), zero["std"], zero["best"]) == (70, "", "1")
    over = rows["base-to-novel, average over 2 datasets, 16 shots", "maple", "HM"]
    assert float(over["mean"]) == pytest.approx(harmonic_mean(76, 51))
    assert float(over["std"]) == pytest.approx(stdev([harmonic_mean(75, 50), harmonic_mean(77, 52)]))
    markdown = render(found, "markdown")
    assert "| maple | **81.00 ± 1.41** | 62.00 ± 2.83 |" in markdown
    assert "| clip | 60.00 | **70.00** |" in markdown
    latex = render(found, "latex")
    assert r"maple & \textbf{81.00 {\scriptsize$\pm$1.41}}" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3
    assert "81.00 ± 1.41" in render(found, "terminal")


def test_missing_and_failed_runs_are_named(tmp_path: Path) -> None:
    values = TWO | {("maple", "b", 1): (None, None), ("maple", "a", 2): ("out of memory", "out of memory")}
    found = tables(COMMON, halves(tmp_path, values))
    text = render(found, "markdown")
    assert "80.00 (1/2)" in text
    assert "**80.00" not in text
    assert "failed: maple, a, novel, seed 2: out of memory" in text
    assert "missing: maple, b, base, seed 1" in text
    assert "| maple | - | - | - |" in text  # no seed has both datasets


def test_published_figures_are_marked_and_never_best(tmp_path: Path) -> None:
    values = {(m, "dtd" if d == "a" else d, s): v for (m, d, s), v in TWO.items()}
    *_, last = tables(COMMON, halves(tmp_path / "dtd", values))
    assert next(r.label for r in last.rows if r.published) == "CLIP (published, arXiv 2203.05557)"
    assert all(r < 2 for column in range(3) for r in last.best(column))
    assert "published: averages over 11 datasets" in render([last], "markdown")
    assert render([last], "latex").count(r"\midrule") == 2
    for shots, mine in ((4, values), (16, TWO)):
        out = tmp_path / f"{shots}"
        *_, last = tables(COMMON, halves(out, mine, shots))
        assert not any(r.published for r in last.rows)


def test_published_harmonic_means_are_those_of_their_parts() -> None:
    assert len(PUBLISHED.rows) == 6
    for _, _, (base, novel, hm) in PUBLISHED.rows:
        assert hm == pytest.approx(harmonic_mean(base, novel), abs=0.011)


def test_transfer_and_few_shot(tmp_path: Path) -> None:
    values = (("s", 80), ("x", 50), ("y", 60))
    rows = [("maple", "s", d, "all", 16, seed, v + seed) for d, v in values for seed in (1, 2)]
    (table,) = tables(COMMON, results_of(tmp_path / "cross", "cross-dataset", rows))
    assert table.columns == ["s", "x", "y", "average of targets"]
    assert [s.mean for s in table.rows[0].scores] == [81.5, 51.5, 61.5, 56.5]
    rows = [("maple", d, d, "all", k, 1, 50 + k) for d in "xy" for k in (16, 1)]
    found = tables(COMMON, results_of(tmp_path / "few", "few-shot", rows))
    assert [t.title for t in found] == ["few-shot, x", "few-shot, y", "few-shot, average over 2 datasets"]
    assert found[-1].columns == ["1 shot", "16 shots"]
    assert [s.mean for s in found[-1].rows[0].scores] == pytest.approx([51, 66])


def test_what_seeds_do_not_change_has_no_spread_beside_what_they_do(tmp_path: Path) -> None:
    """Zero-shot on a dataset with a split of its own, and on one whose test images a seed draws."""
    keys, store = [], Store(tmp_path)
    for seed, dataset, run in ((1, "a", "r"), (2, "a", "r"), (1, "b", "s"), (2, "b", "t")):
        keys += [
            ResultKey("base-to-novel", "clip", dataset, dataset, part, 16, seed, run, part)
            for part in ("base", "novel")
        ]
        for part in ("base", "novel"):
            write_json(store.run(run).test(part), stored(0.25 * "qrst".index(run), dataset))
    one, other, both = tables(COMMON, Results(keys, store))
    assert [s.std for s in one.rows[0].scores] == [None] * 3
    assert [s.std for s in other.rows[0].scores] == pytest.approx([stdev([50, 75])] * 3)
    assert [s.std for s in both.rows[0].scores] == pytest.approx([stdev([37.5, 50])] * 3)


def test_a_further_protocol_is_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base and novel classes in one list, each half's accuracy read from one test."""

    def half(number: int, result: Mapping[str, Any]) -> float:
        classes = list(result["per_class"].values())
        middle = (len(classes) + 1) // 2
        return 100 * mean((classes[:middle], classes[middle:])[number])

    base, novel = (Term("all", partial(half, number)) for number in (0, 1))
    hm = Measure("HM", (base, novel), harmonic_mean)
    mine = Protocol(
        "one-list", "", "base", ("all",), ("base_to_novel",),
        Layout(("shots", "source"), (Column(Measure("base", (base,))), Column(hm)), average=True), (hm,),
    )  # fmt: skip
    monkeypatch.setitem(PROTOCOLS, mine.name, mine)
    (trial,) = mine.trials(["a"], [1])
    assert (trial.part, trial.tests) == ("base", (EvalSet("a"),))
    rows = [(m, "a", "a", "all", 16, 1, 0.0) for m in ("clip", "maple")]
    results = results_of(tmp_path, mine.name, rows)
    for key, found in results.found.items():
        assert found is not None
        found["per_class"] = {"cat": 0.8, "dog": 0.6, "ant": 0.4 + 0.3 * (key.method == "maple")}
    (table,) = tables(COMMON, results)
    assert (table.title, table.columns) == ("one-list, a, 16 shots", ["base", "HM"])
    assert [s.mean for s in table.rows[0].scores] == pytest.approx([70, harmonic_mean(70, 40)])
    found = compare_methods(results, "maple", "clip")
    assert found.pairs == pytest.approx({("a", 1): 70 - harmonic_mean(70, 40)})


def test_names_with_special_characters(tmp_path: Path) -> None:
    values = {("a_b & c|d", "x", 1): (1.0, 2.0)}
    found = tables(COMMON, halves(tmp_path, values))
    assert r"a\_b \& c|d & 1.00" in render(found, "latex")
    assert r"| a_b & c\|d | 1.00" in render(found, "markdown")
    with pytest.raises(UserError, match="did you mean 'markdown'"):
        render(found, "markdwn")


def test_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = halves(tmp_path, TWO)
    found = compare_methods(mine, "maple", "clip", "base")
    assert found.pairs == pytest.approx({("a", 1): 20, ("a", 2): 22, ("b", 1): 20, ("b", 2): 22})
    assert found.estimate.value == pytest.approx(21)
    assert found.estimate.over == "2 datasets x 2 seeds"
    assert (found.estimate.low, found.estimate.high) == pytest.approx((8.29, 33.71), abs=0.01)
    back = compare_methods(mine, "clip", "maple", "base")
    assert back.estimate.value == pytest.approx(-21)
    assert back.estimate.p == pytest.approx(found.estimate.p)
    show(found, "maple", "clip", "base-to-novel")
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "95 % interval of the mean +8.29 to +33.71, p = 0.0303, over 2 datasets x 2 seeds." in text
    assert "Datasets and seeds both count as random" in text
    for first, second, measure, sentence in [
        ("mapel", "clip", None, "did you mean 'maple'"),
        ("clip", "clip", None, "given twice"),
        ("maple", "clip", "nvel", "did you mean 'novel'"),
    ]:
        with pytest.raises(UserError, match=sentence):
            compare_methods(mine, first, second, measure)


def test_comparison_of_nothing(tmp_path: Path) -> None:
    values = {("clip", "a", 1): (1.0, 1.0), ("maple", "a", 1): (None, None)}
    with pytest.raises(UserError, match="no finished run in common"):
        compare_methods(halves(tmp_path, values), "clip", "maple")


def test_comparison_across_datasets_leaves_the_source_out(tmp_path: Path) -> None:
    rows = [(m, "s", d, "all", 16, 1, v) for m, v in (("clip", 50), ("maple", 51)) for d in ("s", "x")]
    found = compare_methods(results_of(tmp_path, "cross-dataset", rows), "maple", "clip")
    assert found.pairs == {("s to x", 1): pytest.approx(1)}
    assert (found.estimate.low, found.estimate.p) == (None, None)


def test_comparison_takes_shots_of_one_dataset_as_one(tmp_path: Path) -> None:
    rows = [
        (m, d, d, "all", k, s, 50 + (m == "maple") * (k + s)) for m in ("clip", "maple") for d in "xy"
        for k in (1, 16) for s in (1, 2)
    ]  # fmt: skip
    found = compare_methods(results_of(tmp_path, "few-shot", rows), "maple", "clip")
    assert found.pairs == pytest.approx({("x", 1): 9.5, ("x", 2): 10.5, ("y", 1): 9.5, ("y", 2): 10.5})


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        (lambda d, s: s == 1, "One seed"),
        (lambda d, s: d == "a", "It says nothing about other datasets"),
        (lambda d, s: d == "a" and s == 1, "No interval of the mean: 1 dataset x 1 seed are too few"),
    ],
)
def test_what_a_comparison_cannot_say(
    keep: Callable[[str, int], bool], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {(m, d, s): v for (m, d, s), v in TWO.items() if keep(d, s)}
    show(
        compare_methods(halves(tmp_path, values), "maple", "clip", "novel"), "maple", "clip", "base-to-novel"
    )
    assert sentence in re.sub(r"\s+", " ", capsys.readouterr().out)
