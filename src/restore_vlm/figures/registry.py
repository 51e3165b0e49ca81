"""Every figure by name, drawn from finished runs and written to a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

from restore_vlm.errors import UserError, unknown
from restore_vlm.figures.accuracy import ablation, sensitivity, true_class
from restore_vlm.figures.drawing import STYLE, Drawing, save
from restore_vlm.figures.embedding_map import embedding_map
from restore_vlm.figures.records import Record
from restore_vlm.figures.shift import discrepancy_gain, shift_accuracy, shift_blocks

MAP = "embedding-map"
FIGURES: dict[str, Callable[[Sequence[Record]], Drawing]] = {
    "true-class": true_class,
    "discrepancy-gain": discrepancy_gain,
    "shift-accuracy": shift_accuracy,
    "shift-blocks": shift_blocks,
    "ablation": ablation,
    "sensitivity": sensitivity,
}
NAMES = (*FIGURES, MAP)


def draw(
    name: str,
    records: Sequence[Record],
    root: Path | None = None,
    dataset: str | None = None,
    umap: bool = False,
) -> Drawing:
    """Draws one figure.

    Args:
        name: One of :data:`NAMES`.
        records: What to draw.
        root: Of the datasets; only the map looks at images.
        dataset: Of the map; None is the first.
        umap: In place of t-SNE.

    Raises:
        UserError: For an unknown name, or records that the figure cannot be drawn from.
    """
    if name not in NAMES:
        raise unknown("figure", name, NAMES)
    with matplotlib.rc_context(STYLE):
        if name != MAP:
            return FIGURES[name](records)
        if root is None:
            raise UserError(f"The figure {MAP} looks at images; give the folder of the datasets with --root.")
        return embedding_map(records, root, dataset, umap)


def write(
    name: str,
    records: Sequence[Record],
    folder: Path,
    root: Path | None = None,
    dataset: str | None = None,
    umap: bool = False,
) -> Drawing:
    """:func:`draw`, and writes NAME.png, NAME.svg and NAME.csv."""
    drawing = draw(name, records, root, dataset, umap)
    save(drawing, folder, name)
    return drawing
