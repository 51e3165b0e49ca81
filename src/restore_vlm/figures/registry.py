"""Every figure by name: drawn from finished runs or from its own CSV, and written to a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from restore_vlm.errors import UserError, unknown
from restore_vlm.figures.accuracy import (
    ablation,
    ablation_panels,
    sensitivity,
    sensitivity_panels,
    true_class,
    true_class_panels,
)
from restore_vlm.figures.embedding_map import embedding_map, embedding_map_panels
from restore_vlm.figures.figure import Figure, Numbers, Panel, Rows, read_csv
from restore_vlm.figures.records import Record
from restore_vlm.figures.shift import (
    discrepancy_gain,
    discrepancy_gain_panels,
    shift_accuracy,
    shift_accuracy_panels,
    shift_blocks,
    shift_blocks_panels,
)

MAP = "embedding-map"


@dataclass(frozen=True)
class Kind:
    """How figures of one name come about.

    Attributes:
        panels: From the rows of the CSV and of the summary to charts.
        numbers: From records to the rows; None where records alone do not do.
        columns: Panels side by side.
        one_legend: Whether panels share their legend.
    """

    panels: Callable[[Rows, Rows], list[Panel]]
    numbers: Callable[[Sequence[Record]], Numbers] | None
    columns: int = 2
    one_legend: bool = True


KINDS = {
    "true-class": Kind(true_class_panels, true_class),
    "discrepancy-gain": Kind(discrepancy_gain_panels, discrepancy_gain),
    "shift-accuracy": Kind(shift_accuracy_panels, shift_accuracy, one_legend=False),
    "shift-blocks": Kind(shift_blocks_panels, shift_blocks),
    "ablation": Kind(ablation_panels, ablation),
    "sensitivity": Kind(sensitivity_panels, sensitivity, columns=3),
    MAP: Kind(embedding_map_panels, None, columns=3),
}
NAMES = tuple(KINDS)


def figure(name: str, numbers: Numbers) -> Figure:
    """The figure of that name from its numbers.

    Args:
        name: One of :data:`NAMES`.
        numbers: As :func:`draw` or the CSV has them.
    """
    kind = KINDS[name]
    panels = kind.panels(numbers.rows, numbers.summary)
    return Figure(name, numbers, panels, kind.columns, kind.one_legend)


def draw(
    name: str,
    records: Sequence[Record],
    root: Path | None = None,
    dataset: str | None = None,
    umap: bool = False,
) -> Figure:
    """Draws one figure from finished runs.

    Args:
        name: One of :data:`NAMES`.
        records: Finished runs, as :func:`restore_vlm.figures.read_records` returns them.
        root: The folder of the datasets; only ``embedding-map`` looks at images.
        dataset: The dataset of that map; None is the first that its methods learned.
        umap: Whether the map is by UMAP in place of t-SNE.

    Returns:
        The figure; ``figure.save(folder)`` writes it, ``figure.numbers`` is what it draws, and
        ``figure.panels[0].chart`` is an Altair chart.

    Raises:
        UserError: For an unknown name, or records that the figure cannot be drawn from.
    """
    if name not in NAMES:
        raise unknown("figure", name, NAMES)
    numbers = KINDS[name].numbers
    if numbers is not None:
        return figure(name, numbers(records))
    if root is None:
        raise UserError(f"The figure {MAP} looks at images; give the folder of the datasets with --root.")
    return figure(name, embedding_map(records, root, dataset, umap))


def write(
    name: str,
    records: Sequence[Record],
    folder: Path,
    root: Path | None = None,
    dataset: str | None = None,
    umap: bool = False,
) -> Figure:
    """Draws one figure and writes NAME.png, NAME.csv and, where it has one, NAME-summary.csv.

    Args:
        name: One of :data:`NAMES`.
        records: Finished runs, as :func:`restore_vlm.figures.read_records` returns them.
        folder: Where the files go; it is made if it is not there.
        root: See :func:`draw`.
        dataset: See :func:`draw`.
        umap: See :func:`draw`.

    Raises:
        UserError: For what :func:`draw` refuses, or a folder that cannot be written.
    """
    drawn = draw(name, records, root, dataset, umap)
    drawn.save(folder)
    return drawn


def redraw(path: Path) -> Figure:
    """The figure of a CSV that :func:`write` left, as ``figures/true-class.csv``.

    Its caption is empty, for that is of the runs.

    Raises:
        UserError: If the file is not named after a figure, cannot be read or lacks columns.
    """
    name = path.stem
    if name not in NAMES:
        raise unknown("figure", name, NAMES)
    summary = path.with_name(f"{name}-summary.csv")
    numbers = Numbers(read_csv(path), "", read_csv(summary) if summary.is_file() else [])
    try:
        return figure(name, numbers)
    except KeyError as error:
        raise UserError(f"{path} lacks the column {error}; write the figure anew.") from None
