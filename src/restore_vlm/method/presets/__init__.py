"""The published methods as data: one TOML file each, with their recipes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from restore_vlm.errors import UserError, unknown
from restore_vlm.method.config import Recipe
from restore_vlm.method.heads import HeadsConfig
from restore_vlm.runtime.files import parse_toml, read_text

Table = dict[str, Any]


def methods() -> list[str]:
    """Names of the bundled methods."""
    return sorted(p.name.removesuffix(".toml") for p in files(__name__).iterdir() if p.name.endswith(".toml"))


def recipes(method: str | Recipe) -> list[str]:
    """Names of a method's recipes; ``default`` is always there."""
    return ["default", *_read(method).get("recipes", {})]


def load_recipe(method: str | Recipe, recipe: str = "default", settings: Iterable[str] = ()) -> Recipe:
    """Resolves a method to all of its hyper-parameters.

    Args:
        method: A bundled method, or the path of a TOML file of the same form; such a file may
            start from another method with ``base = "restore"`` and remove a part of it with
            ``surgery = "none"``; or a recipe made in Python.
        recipe: ``default``, or one of the method's recipes (a dataset, or ``tiny``), or several joined by
            ``+``, each laid over those before it.
        settings: ``key=value`` overrides with dotted keys and TOML values, ``none`` removing a
            part: ``prompts.depth=6``, ``losses.feature_shift.measure=embedding``, ``surgery=none``.

    Raises:
        UserError: For an unknown method, recipe, key or value, or parts that do not fit together.
    """
    table = _read(method)
    known = table.pop("recipes", {})
    for name in _names(recipe):
        if name not in known:
            raise unknown(f"recipe of {table['name']}", name, ["default", *known])
        _merge(table, known[name])
    chosen: Table = {}
    for setting in settings:
        _merge(chosen, _parse(setting))
    if "epochs" in (chosen.get("training") or {}):
        chosen["training"].setdefault("iterations", None)
    heads = chosen.get("heads")
    for key, kind in HeadsConfig.kinds().items():
        if isinstance(heads, dict) and isinstance(heads.get(key), dict):
            kind.settle(heads[key])
    _merge(table, chosen)
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise UserError(f"Method {table['name']}: {_sentence(error)}") from None


def chooses_depth(method: str | Recipe, recipe: str = "default", settings: Iterable[str] = ()) -> bool:
    """Whether the prompt depth was chosen with the backbone at hand in mind.

    It was by a setting, by a file of the user's own or by the recipe of the tiny backbone; all other
    depths are those of publications, for towers of 12 blocks.
    """
    chosen = [_parse(setting) for setting in settings]
    for name, table in _layers(method):
        found = table.get("recipes", {})
        if name.endswith(".toml"):
            chosen += [table, *(found.get(each, {}) for each in _names(recipe))]
        elif recipe == "tiny":
            chosen.append(found.get(recipe, {}))
    return any("depth" in (table.get("prompts") or {}) for table in chosen)


def _names(recipe: str) -> list[str]:
    """The recipes that are laid over the default."""
    return [name for name in recipe.split("+") if name != "default"]


def _read(method: str | Recipe) -> Table:
    """The table of a method's file, merged into that of the method it starts from."""
    merged: Table = {}
    layers = _layers(method)
    for _, table in layers:
        _merge(merged, table)
    merged.setdefault("name", Path(layers[-1][0]).stem)
    return merged


def _layers(method: str | Recipe, above: tuple[str, ...] = ()) -> list[tuple[str, Table]]:
    """Name and table of a method and of those it starts from, the first of them first."""
    if isinstance(method, Recipe):
        return [(f"{method.name}.toml", method.model_dump())]
    if method in above:
        raise UserError(f"The method {method} starts from itself: {' -> '.join([*above, method])}.")
    path: Any = files(__name__) / f"{method}.toml"
    if method.endswith(".toml"):
        path = Path(method)
        if not path.is_file():
            raise UserError(f"There is no method file {method}.")
    elif not path.is_file():
        raise unknown("method", method, methods())
    try:
        table = parse_toml(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from None
    base = table.pop("base", None)
    if not isinstance(base, str | None):
        raise UserError(f'{path}: base is {base!r} and should be the name of a method, such as "restore".')
    found = table.get("recipes", {})
    if not isinstance(found, dict) or not all(isinstance(recipe, dict) for recipe in found.values()):
        raise UserError(f"{path}: recipes should be tables, such as [recipes.mine].")
    return [*(_layers(base, (*above, method)) if base else []), (method, _without_removed(table))]


def _without_removed(table: Table) -> Table:
    """Parts that are ``"none"``, as TOML has to say it, become None."""
    plain = {k: _without_removed(v) if isinstance(v, dict) else v for k, v in table.items()}
    return {k: None if v == "none" else v for k, v in plain.items()}


def _merge(into: Table, update: Table) -> None:
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _parse(setting: str) -> Table:
    key, equals, text = setting.partition("=")
    keys = [k.strip() for k in key.split(".")]
    if not equals or not all(keys):
        raise UserError(f"--set {setting!r} is not of the form key=value, such as prompts.depth=6.")
    value: Any
    if text.strip().lower() == "none":
        value = None
    else:
        try:
            value = parse_toml(f"value = {text}")["value"]
        except ValueError:
            value = text.strip()
    for k in reversed(keys):
        value = {k: value}
    return _without_removed(value)


def _sentence(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {where!r}."
    return f"{where}: {message}." if where else f"{message}."
