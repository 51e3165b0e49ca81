"""The tables of each protocol, laid out as the publications do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from restore_vlm.bench.scores import Board, Score, Series, average, best, hm_score, score
from restore_vlm.evaluation.protocols import ELEVEN
from restore_vlm.runtime.files import bundled, parse_toml

PARTS = ("base", "novel", "HM")


@dataclass
class Row:
    """A method's scores, by column; published ones are never compared."""

    label: str
    scores: list[Score]
    published: bool = False


@dataclass
class Table:
    """Methods by columns, accuracy in %.

    Attributes:
        title: What it is about.
        columns: Their names.
        rows: One per method.
        notes: Sentences to print below.
    """

    title: str
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def best(self, column: int) -> set[int]:
        """The rows that are best in a column; none where there is nothing to compare."""
        own = [None if row.published else row.scores[column] for row in self.rows]
        return best(own) if sum(s is not None for s in own) > 1 else set()


def tables(common: Mapping[str, Any], board: Board) -> list[Table]:
    """All tables of the cells of one protocol.

    Args:
        common: What the cells share; goes into the notes.
        board: Their scores.
    """
    protocol = board.cells[0].protocol
    layout: dict[str, Callable[[Board], list[Table]]] = {
        "base-to-novel": _base_to_novel,
        "few-shot": _few_shot,
    }
    found = layout.get(protocol, _transfer)(board)
    found[-1].notes += [_conditions(common, board), *board.notes()]
    return found


def _base_to_novel(board: Board) -> list[Table]:
    found = []
    methods = board.distinct("method")
    for shots in board.distinct("shots"):
        datasets = board.distinct("source", shots=shots)
        parts = {
            (m, d): (
                board.series(method=m, source=d, shots=shots, part="base"),
                board.series(method=m, source=d, shots=shots, part="novel"),
            )
            for m in methods
            for d in datasets
        }
        for d in datasets:
            rows = [_halves(board, m, *parts[m, d]) for m in methods]
            found.append(Table(f"base-to-novel, {d}, {_shots(shots)}", [*PARTS], rows))
        rows = [
            _halves(board, m, *(average([parts[m, d][half] for d in datasets]) for half in (0, 1)))
            for m in methods
        ]
        over = f"average over {len(datasets)} datasets" if len(datasets) > 1 else ""
        table = Table(f"base-to-novel, {over}, {_shots(shots)}", [*PARTS], rows) if over else found[-1]
        _add_published(table, shots, datasets)
        found += [table] if over else []
    return found


def _halves(board: Board, method: str, base: Series, novel: Series) -> Row:
    seedless = board.seedless(method=method)
    return Row(method, [score(base, seedless), score(novel, seedless), hm_score(base, novel, seedless)])


def _transfer(board: Board) -> list[Table]:
    found = []
    for source in board.distinct("source"):
        for shots in board.distinct("shots", source=source):
            targets = [d for d in board.distinct("dataset", source=source, shots=shots) if d != source]
            rows = []
            for m in board.distinct("method", source=source, shots=shots):
                mine = [
                    board.series(method=m, source=source, shots=shots, dataset=d) for d in (source, *targets)
                ]
                columns = [*mine, average(mine[1:])]
                seedless = board.seedless(method=m, source=source, shots=shots)
                rows.append(Row(m, [score(s, seedless) for s in columns]))
            title = f"{board.cells[0].protocol}, trained on {source}, {_shots(shots)}"
            found.append(Table(title, [source, *targets, "average of targets"], rows))
    return found


def _few_shot(board: Board) -> list[Table]:
    datasets, methods = board.distinct("source"), board.distinct("method")
    columns = sorted(board.distinct("shots"), key=lambda k: (k is None, k))

    def table(title: str, of: Callable[[str, int | None], Series]) -> Table:
        rows = [
            Row(m, [score(of(m, k), board.seedless(method=m, shots=k)) for k in columns]) for m in methods
        ]
        return Table(f"few-shot, {title}", [_shots(k) for k in columns], rows)

    def one(method: str, dataset: str, shots: int | None) -> Series:
        return board.series(method=method, source=dataset, shots=shots)

    found = [table(d, lambda m, k, d=d: one(m, d, k)) for d in datasets]  # type: ignore[misc]
    if len(datasets) > 1:
        title = f"average over {len(datasets)} datasets"
        found.append(table(title, lambda m, k: average([one(m, d, k) for d in datasets])))
    return found


def published() -> dict[str, Any]:
    """The published averages, with their sources."""
    return parse_toml(bundled(__package__, "published.toml"))


def _add_published(table: Table, shots: int | None, datasets: Sequence[str]) -> None:
    """Published rows, where the protocol's own datasets are among those measured."""
    known = published()
    if shots != known["shots"] or not set(datasets) & set(ELEVEN):
        return
    for row in known["row"]:
        scores = [Score(row[part]) for part in ("base", "novel", "hm")]
        table.rows.append(Row(f"{row['method']} (published, {row['source']})", scores, published=True))
    table.notes.append(
        f"published: {known['note']}; not measured here, and not the datasets above unless all 11"
    )


def _conditions(common: Mapping[str, Any], board: Board) -> str:
    seeds = len(board.distinct("seed"))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    parts = [f"accuracy in %, {spread}", f"backbone {common.get('backbone')}", str(common.get("precision"))]
    if common.get("recipe") != "auto":
        parts.append(f"recipe {common.get('recipe')}")
    return "; ".join([*parts, *common.get("settings", ())])


def _shots(shots: int | None) -> str:
    return "all images" if shots is None else f"{shots} shot{'s' if shots > 1 else ''}"
