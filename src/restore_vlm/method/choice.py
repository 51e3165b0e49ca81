"""The one rule by which a recipe is chosen where none is named."""

from __future__ import annotations

from typing import Literal

from restore_vlm.method.config import Recipe
from restore_vlm.method.presets import recipes

Protocol = Literal["base-to-novel", "cross-dataset", "domain-generalisation", "few-shot"]

SHOTS = (1, 2, 4, 8, 16)
"""Training images per class that recipes are published for."""
VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
"""ImageNet's shifted variants (arXiv 2203.05557); they share its recipes."""
PREFIXES = {
    "base-to-novel": ("base_to_novel",),
    "cross-dataset": ("cross_dataset",),
    "domain-generalisation": ("cross_dataset", "domain_generalisation"),
    "few-shot": ("few_shot",),
}
"""How recipes call the protocols: one source serves both kinds of targets."""
ORDER = ("{protocol}", "shots_{shots}", "{protocol}_{shots}", "{dataset}", "{protocol}_{dataset}")
"""Names of recipes that fit, what counts least first: each is laid over those before it."""


def choose_recipe(
    method: str | Recipe, protocol: Protocol, dataset: str, shots: int | None, backbone: str
) -> str:
    """The recipe of a method for what is to be trained.

    A backbone's own recipe (``tiny``) is complete and taken alone. Else all recipes that fit the
    protocol, the shots or the dataset are taken, in the order of ``ORDER``; their names are joined by
    ``+``, as :func:`restore_vlm.method.load_recipe` reads them.

    Args:
        method: A bundled method, a TOML file or a recipe made in Python.
        protocol: Training on half of the classes is ``base-to-novel``, on all of them ``few-shot``
            where the tests are of the same dataset.
        dataset: Trained on.
        shots: Training images per class, None for all; recipes for fewer shots than these count where there
            is none for as many.
        backbone: Its name.

    >>> choose_recipe("taskres", "few-shot", "imagenet", 4, "ViT-B-16:openai")
    'shots_4+imagenet'
    >>> choose_recipe("taskres", "few-shot", "imagenet", 4, "tiny")
    'tiny'
    """
    known = recipes(method)[1:]
    if backbone in known:
        return backbone
    fitting = max((k for k in SHOTS if shots is None or k <= shots), default=SHOTS[0])
    dataset = "imagenet" if dataset in VARIANTS else dataset
    wanted = [
        pattern.format(protocol=prefix, shots=fitting, dataset=dataset)
        for pattern in ORDER
        for prefix in PREFIXES[protocol]
        if pattern != "{dataset}" or _is_dataset(dataset)
    ]
    return "+".join(name for name in dict.fromkeys(wanted) if name in known) or "default"


def _is_dataset(name: str) -> bool:
    """Whether a recipe of that name is for a dataset: a folder may be called ``tiny``."""
    reserved = ("tiny", "shots_", *(prefix for prefixes in PREFIXES.values() for prefix in prefixes))
    return not name.startswith(reserved)
