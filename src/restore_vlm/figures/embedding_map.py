"""F5: image and text features of base and novel classes, in two dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from restore_vlm.bench import DataRoot
from restore_vlm.classifier import Classifier
from restore_vlm.errors import UserError, unknown
from restore_vlm.figures.drawing import COLOURS, MARKERS, Drawing, canvas
from restore_vlm.figures.numbers import HALVES, ZERO, halves
from restore_vlm.figures.records import Record
from restore_vlm.measure import Probe
from restore_vlm.measure.shift import embeddings

METHODS = ("clip", "coop", "restore")
CLASSES, IMAGES = 4, 15
"""Of each half, and images of each class, at most."""
PERPLEXITY = 15


def embedding_map(
    records: Iterable[Record],
    root: Path,
    dataset: str | None = None,
    umap: bool = False,
    methods: Sequence[str] = METHODS,
) -> Drawing:
    """t-SNE (or UMAP) of images and classes of one dataset together, the same settings for every method.

    Args:
        records: With the methods' run folders.
        root: Where the datasets are.
        dataset: Which; None is the first that all methods learned.
        umap: UMAP in place of t-SNE.
        methods: One panel each.

    Raises:
        UserError: If a method is not there, there are fewer images than t-SNE's perplexity, or UMAP is
            not installed.
    """
    mine = halves(records)
    runs = _runs(mine, methods, dataset)
    images, classes, names = _features(runs, root)
    figure = canvas(3.6 * len(runs), 3.9)
    rows: list[dict[str, Any]] = []
    for axes, (method, run) in zip(np.atleast_1d(figure.subplots(1, len(runs))), runs.items(), strict=True):
        places = _project(np.concatenate([images[method], classes[method]]), umap)
        _scatter(axes, places, names)
        axes.set_title(f"{method}: {run.accuracy:.0f} % on base")
        rows += _rows(method, places, names)
    _legend(figure, names)
    how = "UMAP" if umap else f"t-SNE, perplexity {PERPLEXITY}"
    one = next(iter(runs.values()))
    each = len(images[one.method]) // len(names)
    caption = (
        f"{how}, of {one.dataset}, runs of seed {one.seed}: {each} test images of each class; stars: text."
    )
    return Drawing(figure, rows, caption)


def _rows(method: str, places: np.ndarray, names: dict[str, str]) -> list[dict[str, Any]]:
    each = len(places) // len(names) - 1
    things = [("image", name) for name in names for _ in range(each)] + [("text", name) for name in names]
    return [
        {"method": method, "kind": kind, "half": names[name], "class": name, "x": float(x), "y": float(y)}
        for (x, y), (kind, name) in zip(places, things, strict=True)
    ]


def _runs(records: Sequence[Record], methods: Sequence[str], dataset: str | None) -> dict[str, Record]:
    known = list(dict.fromkeys(r.dataset for r in records))
    if dataset is not None and dataset not in known:
        raise unknown("dataset of these runs", dataset, known)
    for one in known if dataset is None else [dataset]:
        runs = {r.method: r for r in reversed(records) if (r.dataset, r.part) == (one, "base")}
        if runs.keys() >= set(methods):
            return {method: runs[method] for method in methods}
    where = "No dataset has" if dataset is None else f"{dataset} does not have"
    raise UserError(f"{where} runs of all of {', '.join(methods)}; the map shows them side by side.")


def _features(
    runs: dict[str, Record], root: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, str]]:
    """Unit features of images and of classes by method, and the half of every class, base first."""
    model_of = {m: Classifier.load(r.folder).model for m, r in runs.items() if r.folder}
    if not model_of:
        raise UserError(f"Only {ZERO} is among the runs; add a method that learns.")
    one, shelf = next(iter(runs.values())), DataRoot(root)
    anyone = next(iter(model_of.values()))
    groups, half_of = {}, {}
    for half in HALVES:
        test = shelf.test(one.dataset, half, (one.shots, one.seed))
        for label in sorted({i.label for i in test.items})[:CLASSES]:
            groups[test.classes[label]] = [i for i in test.items if i.label == label][:IMAGES]
            half_of[test.classes[label]] = half
    names, each = list(groups), min(map(len, groups.values()))
    items = [replace(i, label=n) for n, mine in enumerate(groups.values()) for i in mine[:each]]
    probe = Probe.of(items, names, anyone.backbone, len(items), len(names))
    images, classes = {}, {}
    for method in runs:
        if method in model_of:
            found = embeddings(model_of[method].eval(), probe.batches, probe.classes)
        else:
            found = probe.frozen(anyone)
        images[method] = found.image_features.numpy()
        text = found.text_features
        classes[method] = (text.mean(0) if text.ndim == 3 else text).numpy()
    return images, classes, half_of


def _project(features: np.ndarray, umap: bool) -> np.ndarray:
    if umap:
        try:
            from umap import UMAP  # type: ignore[import-not-found]
        except ImportError:
            raise UserError("UMAP is not installed; install it: pip install 'restore-vlm[umap]'.") from None
        return UMAP(metric="cosine", n_neighbors=PERPLEXITY, random_state=0, n_jobs=1).fit_transform(features)
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    if len(features) <= PERPLEXITY:
        raise UserError(f"{len(features)} points are too few for t-SNE's perplexity of {PERPLEXITY}.")
    return TSNE(metric="cosine", perplexity=PERPLEXITY, init="random", random_state=0).fit_transform(features)


def _scatter(axes: Any, places: np.ndarray, names: dict[str, str]) -> None:
    """Images class by class, then the classes; filled is base, open is novel."""
    each = len(places) // len(names) - 1
    for i, (name, half) in enumerate(names.items()):
        j = list(names.values())[:i].count(half)
        colour, novel = COLOURS[j], half == "novel"
        axes.scatter(*places[i * each : (i + 1) * each].T, s=16, marker=MARKERS[j],
                     facecolors="none" if novel else colour, edgecolors=colour, linewidths=0.9,
                     label=f"{name.replace('_', ' ')} ({half})")  # fmt: skip
        x, y = places[len(names) * each + i]
        axes.scatter(x, y, s=110, marker="*", facecolors="white" if novel else colour,
                     edgecolors=colour if novel else "black", linewidths=1.2 if novel else 0.8)  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])


def _legend(figure: Any, names: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles, labels = figure.axes[0].get_legend_handles_labels()
    star = Line2D([], [], ls="", marker="*", ms=10, mfc="white", mec="black")
    columns = -(-len(names) // 2) + 1
    figure.legend(
        [*handles, star], [*labels, "text of the class of that colour"],
        loc="outside lower center", ncols=columns, fontsize=8,
    )  # fmt: skip
