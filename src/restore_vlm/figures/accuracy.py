"""Figures of accuracy: probability of the true class, ablations, sensitivity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from restore_vlm.errors import UserError
from restore_vlm.evaluation.statistics import difference
from restore_vlm.figures.drawing import COLOURS, HALF_COLOURS, HATCHES, MARKERS, Drawing, bars_text, canvas
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
    "prompts.depth": "prompt depth",
    "prompts.length": "prompt length",
    "training.lr": "learning rate",
}


def true_class(records: Iterable[Record]) -> Drawing:
    """F1: P(c|x) of the true class over test images, and accuracy, of every method on both halves."""
    mine = halves(records)
    methods = methods_of(mine)
    figure = canvas(9, 1.6 + 0.3 * len(methods))
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1), sharey=True)
    rows, seeds = [], 1
    for place, method in enumerate(methods):
        for half in HALVES:
            chosen = [r for r in mine if r.method == method and r.part == half]
            if not chosen:
                continue
            y = place + (-0.2 if half == "base" else 0.2)
            counts = np.sum([r.result["true_histogram"] for r in chosen], axis=0)
            share = counts / counts.sum()
            _density(left, share, y, HALF_COLOURS[half])
            probability = over_seeds(chosen, lambda r: 100 * r.result["true_probability"])
            accuracy = over_seeds(chosen, lambda r: r.accuracy)
            seeds = max(seeds, accuracy.seeds)
            marker = "os"[half == "novel"]
            right.errorbar(
                accuracy.mean, y, xerr=accuracy.std, fmt=marker, ms=5, color=HALF_COLOURS[half], capsize=2
            )
            left.plot(probability.mean / 100, y, marker, ms=4, color="black", mfc="white")
            rows.append(
                {"method": method, "half": half, **_spread("accuracy", accuracy)}
                | _spread("true_probability", probability)
                | {f"share_{i / len(share):.2f}": float(s) for i, s in enumerate(share)}
            )
    left.set_yticks(range(len(methods)), methods)
    left.set_ylim(len(methods) - 0.4, -0.6)
    left.set(xlabel="probability of the true class, P(c|x)", xlim=(0, 1))
    left.set_title("Test images by P(c|x); markers: its mean")
    right.set(xlabel="accuracy, %")
    right.grid(axis="x", alpha=0.3)
    right.set_title("Accuracy")
    _halves_legend(figure)
    caption = (
        f"Average over datasets; {bars_text(seeds)}; strips: all images together, darker where more are."
    )
    return Drawing(figure, rows, caption + uneven(mine))


def _density(axes: Any, share: np.ndarray, y: float, colour: str) -> None:
    """A strip of cells, darker where more images are."""
    edges = np.linspace(0, 1, len(share) + 1)
    strength = np.sqrt(share / share.max())
    for low, high, s in zip(edges[:-1], edges[1:], strength, strict=True):
        axes.fill_between([low, high], y - 0.18, y + 0.18, color=colour, alpha=float(0.9 * s), lw=0)


def _halves_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="os"[half == "novel"], ls="", color=HALF_COLOURS[half], label=half)
        for half in HALVES
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)


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


def ablation(records: Iterable[Record]) -> Drawing:
    """What RESTORE loses without each of its parts: paired differences on base, novel and HM."""
    records = list(records)
    found = {ABLATIONS[c]: v for (m, c), v in variants(records).items() if m == METHOD and c in ABLATIONS}
    if not found:
        settings = " or ".join(f"--set {s[0]}" for s in ABLATIONS)
        raise UserError(
            f"No ablation is among the runs; run the grid again with --methods restore {settings}."
        )
    figure = canvas(7, 3.6)
    axes, rows = figure.subplots(), []
    for place, (label, runs) in enumerate(found.items()):
        whole = scores_of(reference(records, {r.dataset for r in runs}))
        for i, (score, values) in enumerate(scores_of(runs).items()):
            estimate = difference(values, whole[score])
            error = None if estimate.low is None else [
                [estimate.value - estimate.low], [estimate.high - estimate.value]  # type: ignore[operator]
            ]  # fmt: skip
            x = place + (i - 1) * 0.27
            colour, hatch = HALF_COLOURS[score], HATCHES[i]
            axes.bar(x, estimate.value, 0.25, color=colour, hatch=hatch, edgecolor="white", yerr=error,
                     capsize=2, ecolor="#333333", label=score if not place else None)  # fmt: skip
            rows.append(
                {"variant": label, "score": score, "difference": estimate.value, "low": estimate.low}
                | {"high": estimate.high, "over": estimate.over, "p": estimate.p}
            )
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xticks(range(len(found)), list(found))
    axes.set_ylabel("points against RESTORE")
    axes.set_title("RESTORE with one part changed")
    axes.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, -0.1))
    over = " or ".join(sorted({str(row["over"]) for row in rows}))
    return Drawing(figure, rows, f"Paired by dataset and seed; 95 % intervals over {over}.")


def sensitivity(records: Iterable[Record]) -> Drawing:
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
    height = (len(lines) + 1) // 2
    figure = canvas(8, 2.9 * height)
    panels = figure.subplots(height, 2 if len(lines) > 1 else 1, squeeze=False, sharey=True)
    rows, seeds = [], 1
    for axes, (key, points) in zip(panels.flat, lines.items(), strict=False):
        common = set.intersection(*({r.dataset for r in runs} for _, runs in points))
        whole = reference(records, common)
        own = _own_value(key, whole, records)
        same = [(x, [r for r in runs if r.dataset in common]) for x, runs in points]
        ordered = sorted([*same, (own, whole)], key=lambda p: p[0])
        for row in _line(axes, key, own, ordered):
            rows.append(row)
            seeds = max(seeds, int(row["seeds"]))
    for axes in list(panels.flat)[len(lines) :]:
        axes.remove()
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return Drawing(figure, rows, f"Dotted: RESTORE's own value; {bars_text(seeds)}.")


def _own_value(key: str, whole: Sequence[Record], records: Sequence[Record]) -> float:
    backbone = whole[0].backbone
    recipe = load_recipe(METHOD, "tiny" if backbone == "tiny" else "default", usual_settings(records))
    part, _, name = key.rpartition(".")
    value: Any = recipe
    for step in chain(part.split("."), [name]):
        value = getattr(value, step)
    return float(value)


def _line(
    axes: Any, key: str, own: float, points: Sequence[tuple[float, Sequence[Record]]]
) -> Iterable[dict[str, Any]]:
    for i, score in enumerate((*HALVES, "HM")):
        spreads = [_over(runs, score) for _, runs in points]
        axes.errorbar(
            [x for x, _ in points], [s.mean for s in spreads], yerr=[s.std or 0 for s in spreads],
            marker=MARKERS[i], ms=4, capsize=2, color=(*COLOURS[:2], COLOURS[7])[i], label=score,
            ls=("-", "--", ":")[i],
        )  # fmt: skip
        for (x, _), s in zip(points, spreads, strict=True):
            yield {"setting": key, "value": x, "own": int(x == own), "score": score, **_spread("percent", s)}
    axes.axvline(own, color="#666666", ls=":", lw=1)
    if key.startswith(("losses", "surgery", "training")):
        axes.set_xscale("log")
    axes.set_xticks([x for x, _ in points], [f"{x:g}" for x, _ in points])
    axes.minorticks_off()
    axes.set(xlabel=AXES[key], ylabel="accuracy, %")


def _over(runs: Sequence[Record], score: str) -> Spread:
    if score == "HM":
        return hm_over_seeds(runs)
    return over_seeds([r for r in runs if r.part == score], lambda r: r.accuracy)
