"""The examples in the docstrings of a method's parts run, and every part has one."""

import doctest
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest
import torch

from restore_vlm import method
from restore_vlm.method.averaging import GaussianAverage, Interpolation
from restore_vlm.method.heads import Head
from restore_vlm.method.losses import Loss
from restore_vlm.method.part import PartModule
from restore_vlm.method.weights import FinetuneConfig, Weights

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(method.__path__, f"{method.__name__}.")
    return [method, *(import_module(module.name) for module in found)]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__.partition("method")[2])
def test_examples(module: ModuleType) -> None:
    torch.manual_seed(0)
    assert not doctest.testmod(module, extraglobs={"torch": torch}, optionflags=FLAGS).failed


def subclasses(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield from (each, *subclasses(each))


def test_every_part_has_an_example() -> None:
    abstract = {"Head", "Inserted", "Weights"}
    parts = {each for kind in (PartModule, Loss) for each in subclasses(kind)}
    mine = {part for part in parts if part.__module__.startswith(method.__name__)}
    assert {Head, Weights} < mine and len(mine) >= 14
    for part in {*mine, FinetuneConfig, GaussianAverage, Interpolation}:
        if part.__name__ not in abstract:
            assert "Example:" in (part.__doc__ or ""), part
            assert "arXiv" in part.__doc__ or part.__name__ in ("CrossEntropy", "Prompts", "FinetuneConfig")
