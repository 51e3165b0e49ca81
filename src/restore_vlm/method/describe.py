"""Methods for people to read: their parts in words, their settings without what says nothing."""

from __future__ import annotations

import re
from typing import Any

from restore_vlm.method.config import Part, Recipe, TrainingConfig

Table = dict[str, Any]


def learned(recipe: Recipe) -> str:
    """What is learned: prompts (layers x tokens per layer), weights, surgery and heads."""
    found, p, w, h = list[str](), recipe.prompts, recipe.weights, recipe.heads
    if p:
        kinds = {"per class": p.per_class, "conditional": p.conditional, "coupled": p.coupled}
        kinds[f"class name {p.class_position}"] = p.class_position != "end"
        towers = "text + image" if p.towers == "both" else p.towers
        found.append(
            ", ".join([f"{towers} prompts {p.depth}x{p.length}", *(k for k, on in kinds.items() if on)])
        )
    if w.lora:
        found.append(f"LoRA rank {w.lora.rank}, {_towers(w.lora.towers)}")
    if w.finetune:
        found.append(f"all weights, {_towers(w.finetune.towers)}")
    if recipe.surgery:
        found.append("dynamic surgery" if recipe.surgery.dynamic else "surgery")
    cache = "learned cache" if h.cache and h.cache.learned else "cache"
    found += [{"cache": cache}.get(n, n.replace("_", " ")) for n, part in h if part is not None]
    return "; ".join(found) or "-"


def rules(recipe: Recipe) -> str:
    """What it is learned by: losses, gradient rule and averaging."""
    if not recipe.trainable:
        return "-"
    found = [name.replace("_", " ") for name, part in recipe.losses if part is not None]
    if recipe.gradient != "plain":
        found.append(f"{recipe.gradient} gradient")
    if recipe.averaging:
        found.append(
            {"gaussian": "Gaussian average", "interpolation": "interpolation"}[recipe.averaging.kind]
        )
    return ", ".join(found)


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
    table = recipe.model_dump(mode="json", exclude_none=True)
    for path, idle in _idle(recipe).items():
        *parents, leaf = path.split(".")
        holder: Any = table
        for parent in parents:
            holder = holder.get(parent, {})
        if idle and leaf in holder and holder[leaf] == _default(recipe, path):
            del holder[leaf]
    if recipe.losses.cross_entropy is None:
        table["losses"]["cross_entropy"] = "none"
    if recipe.heads.cache and recipe.heads.cache.search is None:
        table["heads"]["cache"]["search"] = "none"
    return {k: v for k, v in table.items() if v != {}}


def _idle(recipe: Recipe) -> dict[str, bool]:
    """Per setting, whether it has no effect in this method."""
    p, t, a, losses = recipe.prompts, recipe.training, recipe.averaging, recipe.losses
    without_text = p is None or p.towers == "image"
    by_embeddings = losses.feature_shift is not None and losses.feature_shift.measure == "embedding"
    anchored = losses.text_anchor or losses.logit_anchor or recipe.gradient != "plain" or by_embeddings
    nothing = not (recipe.trainable and t.epochs)
    options = [name for name in TrainingConfig.model_fields if name != "epochs"]
    return {
        "source": not recipe.source,
        "template": bool(recipe.ensemble) or not (without_text or anchored),
        "ensemble": not recipe.ensemble,
        "gradient": recipe.gradient == "plain",
        "losses.cross_entropy": nothing,
        **{
            f"prompts.{name}": without_text for name in ("init", "class_position", "per_class", "conditional")
        },
        **{
            f"prompts.{name}": bool(p and not getattr(p, name))
            for name in ("coupled", "per_class", "conditional")
        },
        **{f"averaging.{name}": bool(a and a.kind != "gaussian") for name in ("mean", "std")},
        "averaging.alpha": bool(a and a.kind != "interpolation"),
        **{f"training.{name}": nothing for name in options},
        "training.eps": nothing or t.optimiser == "sgd",
        "training.momentum": nothing or t.optimiser != "sgd",
        "training.warmup_lr": nothing or not t.warmup_epochs,
    }


def _default(recipe: Recipe, path: str) -> Any:
    part: Any = recipe
    *parents, leaf = path.split(".")
    for parent in parents:
        part = getattr(part, parent)
    assert isinstance(part, Part)
    default = type(part).model_fields[leaf].default
    return default.model_dump(mode="json") if isinstance(default, Part) else default


def _towers(towers: str) -> str:
    return "both towers" if towers == "both" else f"{towers} tower"
