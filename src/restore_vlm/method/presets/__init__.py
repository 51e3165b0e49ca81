"""The published methods as data: one TOML file each, with their recipes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from restore_vlm.errors import UserError, unknown
from restore_vlm.method.config import Recipe

Table = dict[str, Any]


def methods() -> list[str]:
    """Names of the bundled methods."""
    return sorted(p.name.removesuffix(".toml") for p in files(__name__).iterdir() if p.name.endswith(".toml"))


def recipes(method: str) -> list[str]:
    """Names of a method's recipes; ``default`` is always there."""
    return ["default", *_read(method).get("recipes", {})]


def load_recipe(method: str, recipe: str = "default", settings: Iterable[str] = ()) -> Recipe:
    """Resolves a method to all of its hyper-parameters.

    Args:
        method: A bundled method, or the path of a TOML file of the same form; such a file may
            start from another method with ``base = "restore"``.
        recipe: ``default``, or one of the method's recipes (a dataset, or ``tiny``).
        settings: ``key=value`` overrides with dotted keys and TOML values, ``none`` removing a
            part: ``prompts.depth=6``, ``losses.feature_shift.measure=embedding``, ``surgery=none``.

    Raises:
        UserError: For an unknown method, recipe, key or value, or parts that do not fit together.
    """
    table = _read(method)
    known = table.pop("recipes", {})
    if recipe != "default":
        if recipe not in known:
            raise unknown(f"recipe of {method}", recipe, ["default", *known])
        _merge(table, known[recipe])
    for setting in settings:
        _merge(table, _parse(setting))
    table.setdefault("name", Path(method).stem)
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise UserError(f"Method {method}: {_sentence(error)}") from None


def _read(method: str) -> Table:
    path: Any = files(__name__) / f"{method}.toml"
    if method.endswith(".toml"):
        path = Path(method)
        if not path.is_file():
            raise UserError(f"There is no method file {method}.")
    elif not path.is_file():
        raise unknown("method", method, methods())
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from None
    if "base" in table:
        base = _read(table.pop("base"))
        _merge(base, table)
        base.setdefault("name", Path(method).stem)
        return base
    return table


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
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
    for k in reversed(keys):
        value = {k: value}
    return value


def _sentence(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {where!r}."
    return f"{where}: {message}." if where else f"{message}."
