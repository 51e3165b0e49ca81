"""Image and text features of base and novel classes, in two dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from restore_vlm.bench import DataRoot
from restore_vlm.classifier import Classifier
from restore_vlm.errors import UserError, unknown
from restore_vlm.figures.figure import Numbers, Panel, Rows, rows_chart
from restore_vlm.figures.numbers import HALVES, ZERO, halves
from restore_vlm.figures.records import Record
from restore_vlm.figures.style import COLOURS, SHAPES, tip
from restore_vlm.measure import Probe
from restore_vlm.measure.shift import embeddings

METHODS = ("clip", "coop", "restore")
CLASSES, IMAGES = 4, 15
"""Of each half, and images of each class, at most."""
PERPLEXITY = 15
STAR = (
    "M0,-1.2L0.28,-0.39L1.14,-0.37L0.46,0.15L0.71,0.97L0,0.48L-0.71,0.97L-0.46,0.15L-1.14,-0.37L-0.28,-0.39Z"
)


def embedding_map(
    records: Iterable[Record],
    root: Path,
    dataset: str | None = None,
    umap: bool = False,
    methods: Sequence[str] = METHODS,
) -> Numbers:
    """t-SNE (or UMAP) of images and classes of one dataset together, the same settings for every method.

    Args:
        records: Those of the methods, with their run folders.
        root: The folder of the datasets.
        dataset: The name of one; None is the first that all methods learned.
        umap: Whether to use UMAP in place of t-SNE.
        methods: One panel each.

    Raises:
        UserError: If a method is not there, there are fewer images than t-SNE's perplexity, or UMAP is
            not installed.
    """
    runs = _runs(halves(records), methods, dataset)
    images, classes, names = _features(runs, root)
    rows: Rows = []
    for method, run in runs.items():
        places = _project(np.concatenate([images[method], classes[method]]), umap)
        rows += [{**row, "accuracy": run.accuracy} for row in _rows(method, places, names)]
    how = "UMAP" if umap else f"t-SNE, perplexity {PERPLEXITY}"
    one = next(iter(runs.values()))
    each = len(images[one.method]) // len(names)
    caption = (
        f"{how}, of {one.dataset}, runs of seed {one.seed}: {each} test images of each class; stars: text."
    )
    return Numbers(rows, caption)


def embedding_map_panels(rows: Rows, summary: Rows) -> list[Panel]:
    """A map of each method: filled is base, open is novel; a star is the text of the class of its colour."""
    half_of = {row["class"]: row["half"] for row in rows}
    order = [name for half in HALVES for name in half_of if half_of[name] == half]
    within = [[name for name in order if half_of[name] == half_of[one]].index(one) for one in order]
    labels = [f"{name.replace('_', ' ')} ({half_of[name]})" for name in order]
    colours = [COLOURS[1 + i % (len(COLOURS) - 1)] for i in within]
    fills = ["transparent" if half_of[n] == "novel" else c for n, c in zip(order, colours, strict=True)]
    shapes = [SHAPES[i % len(SHAPES)] for i in within]
    named = dict(zip(order, labels, strict=True))
    span = alt.Scale(zero=False, nice=False, padding=14)
    hidden = alt.Axis(labels=False, ticks=False, grid=False)

    def scaled(kind: Any, values: Sequence[str]) -> Any:
        return kind("label:N", title=None, sort=labels, scale=alt.Scale(domain=labels, range=list(values)),
                    legend=alt.Legend(columns=4, orient="bottom", symbolSize=70))  # fmt: skip

    base = rows_chart().encode(
        x=alt.X("x:Q", title=None, axis=hidden, scale=span),
        y=alt.Y("y:Q", title=None, axis=hidden, scale=span),
        stroke=scaled(alt.Stroke, colours),
        fill=scaled(alt.Fill, fills),
        tooltip=[tip("class:N"), tip("half:N"), tip("kind:N")],
    )
    images = (
        base.transform_filter("datum.kind == 'image'")
        .mark_point(size=45, opacity=1, strokeWidth=1.2)
        .encode(shape=scaled(alt.Shape, shapes))
    )
    text = base.transform_filter("datum.kind == 'text'").mark_point(
        shape=STAR, size=190, opacity=1, strokeWidth=1.6
    )
    note = ("stars: text of the class of that colour",)
    return [
        Panel(f"{method}: {own[0]['accuracy']:.0f} % on base", images + text,
              [{**row, "label": named[row["class"]]} for row in own], note, 330, 330)
        for method in dict.fromkeys(row["method"] for row in rows)
        if (own := [row for row in rows if row["method"] == method])
    ]  # fmt: skip


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
