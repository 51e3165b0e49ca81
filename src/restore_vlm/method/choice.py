"""The one rule by which a recipe is chosen where none is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from restore_vlm.method.config import Recipe
from restore_vlm.method.presets import recipes

Kind = Literal["base_to_novel", "cross_dataset", "domain_generalisation", "few_shot"]
"""What recipes for a way of training and testing are called, alone or with shots or a dataset."""

SHOTS = (1, 2, 4, 8, 16)
"""Training images per class that recipes are published for."""
VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
"""ImageNet's shifted variants (arXiv 2203.05557); they share its recipes."""
ORDER = ("{kind}", "shots_{shots}", "{kind}_{shots}", "{dataset}", "{kind}_{dataset}")
"""Names of recipes that fit, what counts least first: each is laid over those before it."""


def choose_recipe(
    method: str | Recipe, kinds: Sequence[Kind], dataset: str, shots: int | None, backbone: str
) -> str:
    """The recipe of a method for what is to be trained.

    A backbone's own recipe (``tiny``) is complete and taken alone. Else all recipes that fit the
    kinds, the shots or the dataset are taken, in the order of ``ORDER``; their names are joined by
    ``+``, as :func:`restore_vlm.method.load_recipe` reads them.

    Args:
        method: A bundled method, a TOML file or a recipe made in Python.
        kinds: What counts least first. Training on half of the classes is ``base_to_novel``, on all of them
            ``few_shot`` where the tests are of the same dataset.
        dataset: Trained on.
        shots: Training images per class, None for all; recipes for fewer shots than these count where there
            is none for as many.
        backbone: Its name.

    >>> choose_recipe("taskres", ["few_shot"], "imagenet", 4, "ViT-B-16:openai")
    'shots_4+imagenet'
    >>> choose_recipe("taskres", ["few_shot"], "imagenet", 4, "tiny")
    'tiny'
    """
    known = recipes(method)[1:]
    if backbone in known:
        return backbone
    fitting = max((k for k in SHOTS if shots is None or k <= shots), default=SHOTS[0])
    dataset = "imagenet" if dataset in VARIANTS else dataset
    wanted = [
        pattern.format(kind=kind, shots=fitting, dataset=dataset)
        for pattern in ORDER
        for kind in kinds
        if pattern != "{dataset}" or _is_dataset(dataset)
    ]
    return "+".join(name for name in dict.fromkeys(wanted) if name in known) or "default"


def _is_dataset(name: str) -> bool:
    """Whether a recipe of that name is for a dataset: a folder may be called ``tiny``."""
    return not name.startswith(("tiny", "shots_", *get_args(Kind)))
