"""Methods for people to read: their parts in words, their settings without what says nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from restore_vlm.method.config import Recipe

Table = dict[str, Any]
RULES = ("losses.", "averaging")
"""Parts by which a method learns; all others are what it learns."""


def learned(recipe: Recipe) -> str:
    """What is learned: prompts (layers x tokens per layer), weights, surgery and heads."""
    return "; ".join(said for key, said in _said(recipe) if not key.startswith(RULES)) or "-"


def rules(recipe: Recipe) -> str:
    """What it is learned by: losses, gradient rule and averaging."""
    if not recipe.trainable:
        return "-"
    losses = [said for key, said in _said(recipe) if key.startswith("losses.")]
    gradient = [f"{recipe.gradient} gradient"] if recipe.gradient != "plain" else []
    averaging = [recipe.averaging.describe()] if recipe.averaging else []
    return ", ".join([*losses, *gradient, *averaging])


def _said(recipe: Recipe) -> list[tuple[str, str]]:
    """Every part by its key, in words."""
    return [
        (key, part.describe() or key.rpartition(".")[2].replace("_", " "))
        for key, part in recipe.parts().items()
    ]


def short_source(recipe: Recipe) -> str:
    """Where the method comes from, without where the hyper-parameters do."""
    return re.split(r";| and |, ", recipe.source)[0]


def short_recipes(names: list[str], datasets: list[str]) -> str:
    """Recipe names with those that end in one of the data sets counted and ``default`` left out."""
    others = [name for name in names if name != "default" and not name.endswith(tuple(datasets))]
    count = sum(name.endswith(tuple(datasets)) for name in names)
    counted = [f"{count} data set{'s' * (count > 1)}"] if count else []
    return ", ".join(counted + others) or "-"


def essential(recipe: Recipe) -> Table:
    """The settings that matter, in the form of a TOML file that loads as the same recipe.

    Left out are parts the method does not have and defaults that have no effect in it.
    """
    table = recipe.model_dump(mode="json")
    for path in _idle(recipe):
        *parents, leaf = path.split(".")
        holder: Any = table
        for parent in parents:
            holder = holder.get(parent) or {}
        if leaf in holder and holder[leaf] == _default(recipe, path):
            del holder[leaf]
    return {key: value for key, value in _as_toml(table, recipe).items() if value != {}}


def _as_toml(table: Table, owner: BaseModel) -> Table:
    """Without what is None by default; what is None all the same is "none", as TOML has to say it."""
    fields, found = type(owner).model_fields, Table()
    for key, value in table.items():
        if isinstance(value, dict):
            found[key] = _as_toml(value, getattr(owner, key))
        elif value is not None:
            found[key] = value
        elif fields[key].default is not None:
            found[key] = "none"
    return found


def _idle(recipe: Recipe) -> Iterator[str]:
    """Settings that have no effect in this method."""
    learning = recipe.trainable and recipe.training.epochs > 0
    written = not (recipe.prompting and recipe.prompting.learns("text"))
    template = written or recipe.compares & {"text", "states"}
    idle = {
        "source": not recipe.source,
        "template": bool(recipe.ensemble) or not template,
        "ensemble": not recipe.ensemble,
        "gradient": recipe.gradient == "plain",
        "losses.cross_entropy": not learning,
    }
    yield from (path for path, on in idle.items() if on)
    yield from (f"{key}.{name}" for key, part in recipe.parts().items() for name in part.idle())
    yield from (f"training.{name}" for name in recipe.training.idle(recipe.trainable))


def _default(recipe: Recipe, path: str) -> Any:
    part: Any = recipe
    *parents, leaf = path.split(".")
    for parent in parents:
        part = getattr(part, parent)
    default = type(part).model_fields[leaf].default
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else default
