"""Figures of accuracy: probability of the true class, ablations, sensitivity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import altair as alt
import numpy as np

from restore_vlm.errors import UserError
from restore_vlm.evaluation.statistics import difference
from restore_vlm.figures.figure import Numbers, Panel, Rows, rows_chart
from restore_vlm.figures.numbers import (
    HALVES,
    Spread,
    halves,
    hm_by_run,
    hm_over_seeds,
    methods_of,
    over_seeds,
    uneven,
    usual_settings,
    variants,
)
from restore_vlm.figures.records import Record
from restore_vlm.figures.style import (
    BOTTOM,
    COLOURS,
    DASHES,
    INK,
    PART_COLOURS,
    PART_DASHES,
    PART_SHAPES,
    SHAPES,
    SOFT,
    error_bars,
    grouped_bars,
    part_scale,
    tip,
)
from restore_vlm.method import load_recipe

METHOD = "restore"
ABLATIONS = {
    ("losses.feature_shift=none",): "without L_fs",
    ("surgery=none",): "without surgery",
    ("surgery.dynamic=false",): "surgery not dynamic",
    ("losses.feature_shift.measure=embedding",): "L_fs by embeddings",
}
AXES = {
    "losses.feature_shift.weight": "weight of L_fs",
    "surgery.text_ratio": "surgery ratios",
    "prompts.depth": "prompt depth, blocks",
    "prompts.length": "prompt length, tokens",
    "training.lr": "learning rate",
}
SHARE = "share_"
MEASURED = ("accuracy", "true_probability", "seeds")

Groups = Mapping[tuple[str, str], Sequence[Record]]
"""Records by method and by what was tested, such as ``base``."""


def true_class(records: Iterable[Record]) -> Numbers:
    """P(c|x) of the true class over test images, and accuracy, of every method on both halves."""
    mine = halves(records)
    groups = {
        (method, half): [r for r in mine if r.method == method and r.part == half]
        for method in methods_of(mine)
        for half in HALVES
    }
    numbers = true_class_of({key: own for key, own in groups.items() if own})
    return Numbers(numbers.rows, numbers.caption + uneven(mine))


def true_class_of(groups: Groups) -> Numbers:
    """The same of any groups of records."""
    rows, seeds = [], 1
    for (method, part), own in groups.items():
        counts = np.sum([r.result["true_histogram"] for r in own], axis=0)
        accuracy = over_seeds(own, lambda r: r.accuracy)
        probability = over_seeds(own, lambda r: 100 * r.result["true_probability"])
        seeds = max(seeds, accuracy.seeds)
        rows.append(
            {"method": method, "half": part, **_spread("accuracy", accuracy)}
            | _spread("true_probability", probability)
            | {f"{SHARE}{i / len(counts):.2f}": float(n / counts.sum()) for i, n in enumerate(counts)}
        )
    caption = (
        f"Average over datasets; {bars_text(seeds)}; strips: all images together, darker where more are."
    )
    return Numbers(rows, caption)


def true_class_panels(rows: Rows, summary: Rows) -> list[Panel]:
    """Strips of the distribution of P(c|x), darker where more images are, and accuracy beside them."""
    parts = list(dict.fromkeys(row["half"] for row in rows))
    look = {
        "color": alt.Color("half:N", scale=part_scale(parts, PART_COLOURS, COLOURS), legend=BOTTOM),
        "shape": alt.Shape("half:N", scale=part_scale(parts, PART_SHAPES, SHAPES), legend=BOTTOM),
    }
    base = rows_chart().encode(
        y=alt.Y("method:N", title=None, sort=list(dict.fromkeys(row["method"] for row in rows))),
        yOffset=alt.YOffset("half:N", sort=parts),
        tooltip=[tip("method:N"), tip("half:N")],
    )
    note, step = ("markers: mean over images",), alt.Step(13)
    spread = _with_ends(rows, "accuracy", "accuracy_std")
    return [
        Panel("Test images by P(c|x)", _distribution(base, look), _strips(rows), note, 430, step),
        Panel("Accuracy", _accuracy(base, look, spread), spread, ("",), 280, step),
    ]


def _distribution(base: alt.Chart, look: dict[str, Any]) -> Any:
    who = base.encoding.tooltip
    axis: dict[str, Any] = {"scale": alt.Scale(domain=[0, 1]), "axis": alt.Axis(grid=False)}
    darkness = alt.Scale(domain=[0, 1], range=[0, 0.9])
    strips = base.transform_filter("isValid(datum.to)").mark_bar(orient="horizontal").encode(
        x=alt.X("from:Q", title="probability of the true class, P(c|x)", **axis), x2="to:Q",
        color=look["color"], opacity=alt.Opacity("strength:Q", scale=darkness, legend=None),
        tooltip=[*who, tip("from:Q", ".2f", "P(c|x) from"), tip("to:Q", ".2f"),
                 tip("share:Q", ".1%", "test images")],
    )  # fmt: skip
    means = (
        base.transform_filter("isValid(datum.mean)")
        .mark_point(filled=True, fill="white", stroke=INK, strokeWidth=1.2, size=36, opacity=1)
        .encode(x="mean:Q", shape=look["shape"], tooltip=[*who, tip("mean:Q", ".3f")])
    )
    return strips + means


def _accuracy(base: alt.Chart, look: dict[str, Any], rows: Rows) -> Any:
    axis: dict[str, Any] = {"title": "accuracy, %", "scale": alt.Scale(zero=False, nice=False, padding=12)}
    points = base.mark_point(filled=True, size=50, opacity=1).encode(
        x=alt.X("accuracy:Q", **axis), **look,
        tooltip=[*base.encoding.tooltip, tip("accuracy:Q", ".2f"),
                 tip("accuracy_std:Q", ".2f", "standard deviation")],
    )  # fmt: skip
    bars = error_bars(base, rows, x=alt.X("low:Q", **axis), x2="high:Q", color=look["color"])
    return alt.layer(*bars, points)


def _strips(rows: Rows) -> Rows:
    """A row for each bin of each distribution, and one for each mean."""
    found: Rows = []
    for row in rows:
        who = {k: v for k, v in row.items() if not k.startswith((SHARE, *MEASURED))}
        shares = [(float(key.removeprefix(SHARE)), s) for key, s in row.items() if key.startswith(SHARE)]
        top = max(share for _, share in shares)
        for low, share in shares:
            high = round(low + 1 / len(shares), 6)
            found.append({**who, "from": low, "to": high, "share": share, "strength": (share / top) ** 0.5})
        found.append({**who, "mean": row["true_probability"] / 100})
    return found


def _with_ends(rows: Rows, value: str, std: str) -> Rows:
    """Rows with the ends of their error bars, without distributions."""
    kept = [{k: v for k, v in row.items() if not k.startswith(SHARE)} for row in rows]
    return [{**row, **ends(row[value], row[std])} for row in kept]


def ends(value: float, std: float | None) -> dict[str, float | None]:
    """Both ends of an error bar; None where there is none."""
    return {"low": None if std is None else value - std, "high": None if std is None else value + std}


def bars_text(seeds: int) -> str:
    """What error bars are, for a caption."""
    return (
        f"error bars: standard deviation over {seeds} seeds" if seeds > 1 else "one seed, hence no error bars"
    )


def _spread(name: str, spread: Spread) -> dict[str, float | int | None]:
    return {name: spread.mean, f"{name}_std": spread.std, "seeds": spread.seeds}


Scores = dict[str, dict[tuple[str, int], float]]


def scores_of(records: Sequence[Record]) -> Scores:
    """Accuracy of both halves and their HM in %, by dataset and seed, of records of one method."""
    found: Scores = {
        half: {(r.dataset, r.seed): r.accuracy for r in records if r.part == half} for half in HALVES
    }
    found["HM"] = {(dataset, seed): value for (_, dataset, seed), value in hm_by_run(records).items()}
    return found


def reference(records: Iterable[Record], datasets: Iterable[str], method: str = METHOD) -> list[Record]:
    """The method as it is, on those datasets.

    Raises:
        UserError: If it is not there.
    """
    wanted = set(datasets)
    found = [r for r in halves(records) if r.method == method and r.dataset in wanted]
    if not found:
        raise UserError(f"{method} itself is not among the runs on {', '.join(sorted(wanted))}; add it.")
    return found


def ablation(records: Iterable[Record]) -> Numbers:
    """What RESTORE loses without each of its parts: paired differences on base, novel and HM."""
    records = list(records)
    found = {ABLATIONS[c]: v for (m, c), v in variants(records).items() if m == METHOD and c in ABLATIONS}
    if not found:
        settings = " or ".join(f"--set {s[0]}" for s in ABLATIONS)
        raise UserError(
            f"No ablation is among the runs; run the grid again with --methods restore {settings}."
        )
    rows = []
    for label, runs in found.items():
        whole = scores_of(reference(records, {r.dataset for r in runs}))
        for score, values in scores_of(runs).items():
            estimate = difference(values, whole[score])
            rows.append(
                {"variant": label, "score": score, "difference": estimate.value, "low": estimate.low}
                | {"high": estimate.high, "over": estimate.over, "p": estimate.p}
            )
    over = " or ".join(sorted({str(row["over"]) for row in rows}))
    return Numbers(rows, f"Paired by dataset and seed; 95 % intervals over {over}.")


def ablation_panels(rows: Rows, summary: Rows) -> list[Panel]:
    """Bars of the differences with their intervals."""
    drawn = [{**row, "value": row["difference"]} for row in rows]
    bars = grouped_bars(
        rows_chart(), drawn, "variant", "score", PART_COLOURS, "difference to RESTORE, points", "+.2f"
    )
    return [Panel("RESTORE with one part changed", bars, drawn, width=560)]


def sensitivity(records: Iterable[Record]) -> Numbers:
    """Accuracy of RESTORE as lambda, surgery ratios, prompt depth and length and learning rate change."""
    records = list(records)
    lines: dict[str, list[tuple[float, list[Record]]]] = {}
    for (method, changed), runs in variants(records).items():
        key = changed[0].partition("=")[0] if changed else ""
        if method == METHOD and key in AXES and changed not in ABLATIONS:
            lines.setdefault(key, []).append((float(changed[0].partition("=")[2]), runs))
    if not lines:
        raise UserError(
            "Nothing that sensitivity is about was changed; run the grid again with, say, "
            "--methods restore --set losses.feature_shift.weight=3."
        )
    rows = []
    for key, points in lines.items():
        common = set.intersection(*({r.dataset for r in runs} for _, runs in points))
        whole = reference(records, common)
        own = _own_value(key, whole, records)
        same = [(x, [r for r in runs if r.dataset in common]) for x, runs in points]
        ordered = sorted([*same, (own, whole)], key=lambda p: p[0])
        rows += [
            {"setting": key, "value": x, "own": int(x == own), "score": score,
             **_spread("percent", _over(runs, score))}
            for score in (*HALVES, "HM")
            for x, runs in ordered
        ]  # fmt: skip
    seeds = max(int(str(row["seeds"])) for row in rows)
    return Numbers(rows, f"Dotted: RESTORE's own value; {bars_text(seeds)}.")


def sensitivity_panels(rows: Rows, summary: Rows) -> list[Panel]:
    """A panel of lines for each setting."""
    return [_sensitivity(key, [r for r in rows if r["setting"] == key]) for key in AXES
            if any(r["setting"] == key for r in rows)]  # fmt: skip


def _sensitivity(key: str, rows: Rows) -> Panel:
    values = sorted({row["value"] for row in rows})
    log = key.startswith(("losses", "surgery", "training"))
    scale = (
        alt.Scale(type="log", nice=False, padding=12)
        if log
        else alt.Scale(zero=False, nice=False, padding=12)
    )
    x = alt.X(
        "value:Q", title=AXES[key], scale=scale,
        axis=alt.Axis(values=values, format="~g", labelOverlap=True),
    )  # fmt: skip
    y = alt.Y("percent:Q", title="accuracy, %", scale=alt.Scale(zero=False, nice=False, padding=12))
    scores = list(dict.fromkeys(row["score"] for row in rows))
    colour = alt.Color("score:N", scale=part_scale(scores, PART_COLOURS, COLOURS), sort=scores, legend=BOTTOM)
    shape = alt.Shape("score:N", scale=part_scale(scores, PART_SHAPES, SHAPES), sort=scores, legend=BOTTOM)
    dash = alt.StrokeDash(
        "score:N", scale=part_scale(scores, PART_DASHES, DASHES), sort=scores, legend=BOTTOM
    )
    base = rows_chart().encode(x=x)
    lines = base.mark_line(strokeWidth=2).encode(y=y, color=colour, strokeDash=dash)
    points = base.mark_point(filled=True, size=40, opacity=1).encode(
        y=y, color=colour, shape=shape,
        tooltip=[tip("score:N"), tip("value:Q", "~g", AXES[key]), tip("percent:Q", ".2f", "accuracy, %"),
                 tip("percent_std:Q", ".2f", "standard deviation")],
    )  # fmt: skip
    own = base.transform_filter("datum.own").mark_rule(strokeDash=[2, 3], color=SOFT)
    drawn = _with_ends(rows, "percent", "percent_std")
    low = alt.Y("low:Q", title="accuracy, %")
    chart = alt.layer(own, *error_bars(base, drawn, y=low, y2="high:Q", color=colour), lines, points)
    title = AXES[key].partition(",")[0]
    return Panel(title[0].upper() + title[1:], chart, drawn, width=270, height=190)


def _own_value(key: str, whole: Sequence[Record], records: Sequence[Record]) -> float:
    backbone = whole[0].backbone
    recipe = load_recipe(METHOD, "tiny" if backbone == "tiny" else "default", usual_settings(records))
    part, _, name = key.rpartition(".")
    value: Any = recipe
    for step in chain(part.split("."), [name]):
        value = getattr(value, step)
    return float(value)


def _over(runs: Sequence[Record], score: str) -> Spread:
    if score == "HM":
        return hm_over_seeds(runs)
    return over_seeds([r for r in runs if r.part == score], lambda r: r.accuracy)
