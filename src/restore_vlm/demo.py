"""The demo: four methods on bundled photos, base and novel classes side by side."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.resources import files
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Empty
from statistics import mean, stdev
from typing import Any

import torch

from restore_vlm.classifier import Classifier, fit
from restore_vlm.evaluation.statistics import harmonic_mean
from restore_vlm.runtime.children import end_with_parent
from restore_vlm.terminal import Bars, bars, out, table
from restore_vlm.training import Progress, RunFolder, write_atomic, write_json

METHODS = ("clip", "ivlp", "maple", "restore")
PHOTOS = Path(str(files("restore_vlm") / "assets" / "demo"))
SCORES = ("base", "novel", "hm")
Row = dict[str, Any]


def run_demo(seeds: Iterable[int], folder: Path) -> None:
    """Adapts the bundled CLIP to half of the bundled classes and tests on both halves.

    16 photos per base class, as published: base images against base classes, novel images against
    novel classes. Runs are shared out to one process per core.

    Args:
        seeds: Of sampling, initialisation and order.
        folder: Gets ``runs/``, ``results.json`` and ``results.png``.

    Raises:
        UserError: If the folder cannot be written.
    """
    seeds = list(seeds)
    out.print(
        "A CLIP meets a thermal camera. It is tuned on 16 photos of each of 20 classes (base) and "
        "tested on them and on 20 classes it is never tuned on (novel)."
    )
    jobs = [(m, s) for s in seeds for m in METHODS if m != "clip" or s == seeds[0]]
    results = _share_out(jobs, folder / "runs")
    rows = [_summary(m, [r for r in results if r["method"] == m]) for m in METHODS]
    write_json(folder / "results.json", {"seeds": seeds, "runs": results, "summary": rows})
    show(rows, len(seeds))
    picture(rows, folder / "results.png")
    _predictions(folder / "runs" / f"restore-seed{seeds[0]}")
    out.print(f"Picture: {folder / 'results.png'}", highlight=False)
    out.print(
        "Your own photos, one folder per class: [bold]restore-vlm train PHOTOS --out runs/mine[/]",
        highlight=False,
    )


def _share_out(jobs: list[tuple[str, int]], runs: Path) -> list[Row]:
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    manager = SyncManager(ctx=context)
    manager.start(end_with_parent)
    with (
        manager,
        bars() as display,
        ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs)), context, end_with_parent) as pool,
    ):
        try:
            queue = manager.Queue()
            futures = [pool.submit(_job, m, s, runs, queue) for m, s in jobs]
            _follow(futures, queue, display)
            return [f.result() for f in futures]
        except BaseException:
            for child in set(multiprocessing.active_children()).difference(others):
                child.kill()  # else the pool would first finish what it has begun
            raise


def _follow(futures: list[Future[Row]], queue: Any, display: Bars) -> None:
    """Moves the bars until every run is done; stops at once if one fails."""
    while True:
        done = [f for f in futures if f.done()]
        display.move("runs", len(done), len(futures))
        for future in done:
            future.result()
        try:
            while True:
                display.move(*queue.get(timeout=0.2))
        except Empty:
            if len(done) == len(futures):
                return


def _job(method: str, seed: int, runs: Path, queue: Any) -> Row:
    torch.set_num_threads(1)
    name = f"{method} seed {seed}"

    def on_step(done: int, total: int, metrics: dict[str, float]) -> None:
        if done % 5 == 0 or done == total:
            queue.put((name, done, total, f"loss {metrics['loss']:.2f}"))

    folder = runs / f"{method}-seed{seed}"
    classifier = fit(
        PHOTOS,
        method,
        seed=seed,
        classes="base",
        out=folder,
        progress=Progress(on_step=on_step),
        precision="fp32",
        validation=None,
    )
    base, novel = (classifier.evaluate(PHOTOS, which).accuracy for which in ("base", "novel"))
    return {"method": method, "seed": seed, "base": base, "novel": novel, "hm": harmonic_mean(base, novel),
            "seconds": RunFolder(folder).training_seconds()}  # fmt: skip


def _summary(method: str, runs: list[Row]) -> Row:
    row: Row = {"method": method, "seconds": mean(r["seconds"] for r in runs)}
    for score in SCORES:
        values = [r[score] for r in runs]
        row[score] = mean(values)
        row[f"{score}_spread"] = stdev(values) if len(values) > 1 else None
    return row | {"hm": harmonic_mean(row["base"], row["novel"])}


def show(rows: list[Row], seeds: int) -> None:
    """Prints the table of summaries, the best harmonic mean bold."""

    def cell(row: Row, score: str) -> str:
        spread = row[f"{score}_spread"]
        return f"{100 * row[score]:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")

    best = max(range(len(rows)), key=lambda i: rows[i]["hm"])
    cells = [[r["method"], *(cell(r, s) for s in SCORES), f"{r['seconds']:.0f}"] for r in rows]
    title = (
        f"Accuracy, %, mean ± standard deviation over {seeds} seeds" if seeds > 1 else "Accuracy, %, one seed"
    )
    table(title, "method", "base", "novel", "harmonic mean", "training, s", rows=cells, marked=best)


def picture(rows: list[Row], path: Path) -> None:
    """Draws base and novel accuracy of every method as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for i, (score, label, colour, hatch) in enumerate(
        [
            ("base", "base: tuned on", "#0072B2", ""),
            ("novel", "novel: never tuned on", "#E69F00", "//"),
            ("hm", "harmonic mean", "#999999", ".."),
        ]
    ):
        places = [j + (i - 1) * 0.27 for j in range(len(rows))]
        heights = [100 * r[score] for r in rows]
        spread = [100 * (r[f"{score}_spread"] or 0) for r in rows]
        bar = axes.bar(
            places, heights, 0.25, yerr=spread if any(spread) else None, label=label, color=colour,
            hatch=hatch, edgecolor="white", ecolor="#333333", capsize=3,
        )  # fmt: skip
        axes.bar_label(bar, fmt="%.1f", padding=3, fontsize=8)
    axes.set_xticks(range(len(rows)), [r["method"] for r in rows])
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 1.22 * max(100 * r[s] for r in rows for s in SCORES))
    axes.set_title("16 thermal-camera photos of each of 20 classes", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper left", fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, dpi=160, format="png")
    plt.close(figure)
    write_atomic(path, content.getvalue())


def _predictions(run: Path) -> None:
    """Asks the tuned model about a base photo and two photos of novel classes, among all 40 classes."""
    classifier = Classifier.load(run)
    everything = sorted(p.name for p in (PHOTOS / "test").iterdir())
    novel = [c for c in everything if c not in classifier.classes]
    shown = [classifier.classes[0], novel[0], novel[-1]]
    photos = [sorted((PHOTOS / "test" / name).iterdir())[0] for name in shown]
    found = classifier.predict(photos, classes=everything, top=3)
    cells = []
    for name, photo, prediction in zip(shown, photos, found, strict=True):
        kind = "base" if name in classifier.classes else "novel"
        guesses = zip(prediction.classes, prediction.probabilities, strict=True)
        cells.append([f"{name}/{photo.name}", kind, ", ".join(f"{c} {100 * p:.0f} %" for c, p in guesses)])
    table("Predictions of restore among all 40 classes", "photo", "kind", "most probable", rows=cells)
