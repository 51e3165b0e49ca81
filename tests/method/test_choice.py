"""Which recipe is taken where none is named: every method, protocol, number of shots and dataset."""

import re
from collections import defaultdict
from itertools import product
from pathlib import Path

import pytest

from restore_vlm.evaluation.protocol import ELEVEN
from restore_vlm.evaluation.protocols import PROTOCOLS, get_protocol
from restore_vlm.method import Recipe, choose_recipe, load_recipe, methods
from restore_vlm.method.choice import SHOTS, VARIANTS

TABLE = Path(__file__).with_name("recipe_choices.txt")
BACKBONE = "ViT-B-16:openai"
HEAD = """\
The recipe that is taken by itself, by method and protocol, on a backbone that has no recipe of its own;
for which datasets and shots, where not for all. DATASET stands for the name of each.
Printed by tests/method/test_choice.py.
"""


def chosen_for(method: str | Recipe, protocol: str, dataset: str, shots: int | None, backbone: str) -> str:
    return choose_recipe(method, get_protocol(protocol).recipes, dataset, shots, backbone)


def table() -> str:
    """All choices: those of one recipe in a line, protocols with the same lines together."""
    text = [HEAD]
    for method in methods():
        own = chosen_for(method, "few-shot", "dtd", 4, "tiny") == "tiny"
        text.append(f"{method}{' (on the tiny backbone: tiny)' if own else ''}")
        alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for protocol in PROTOCOLS:
            alike[_lines(method, protocol)].append(protocol)
        for lines, protocols in alike.items():
            text += [f"  {', '.join(protocols) if len(alike) > 1 else 'all protocols'}", *lines]
    return "\n".join(text) + "\n"


def _lines(method: str, protocol: str) -> tuple[str, ...]:
    chosen: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for dataset, shots in product(ELEVEN, SHOTS):
        recipe = chosen_for(method, protocol, dataset, shots, BACKBONE)
        parts = [re.sub(rf"(^|_){dataset}$", r"\1DATASET", name) for name in recipe.split("+")]
        chosen["+".join(parts)].append((dataset, shots))
    return tuple(f"    {recipe:32} {_cases(cases)}".rstrip() for recipe, cases in chosen.items())


def _cases(cases: list[tuple[str, int]]) -> str:
    datasets, shots = list(dict.fromkeys(d for d, _ in cases)), sorted({s for _, s in cases})
    assert len(cases) == len(datasets) * len(shots), "not a block of the table"
    others = [d for d in ELEVEN if d not in datasets]
    where = ", ".join(datasets) if len(datasets) <= len(others) else f"all but {', '.join(others)}"
    of_which = [where] if others else []
    return "; ".join([*of_which, *([f"shots {', '.join(map(str, shots))}"] if shots != list(SHOTS) else [])])


def test_every_choice_is_as_written_down() -> None:
    print(table())
    assert table() == TABLE.read_text(), "the rule or a preset changed; review the table and write it anew"


def test_every_choice_can_be_loaded() -> None:
    chosen = {
        (method, chosen_for(method, protocol, dataset, shots, BACKBONE))
        for method, protocol, dataset, shots in product(methods(), PROTOCOLS, ELEVEN, (*SHOTS, None, 3, 100))
    }
    for method, recipe in chosen:
        assert load_recipe(method, recipe).name == method


@pytest.mark.parametrize(
    ("method", "protocol", "dataset", "shots", "epochs"),
    [
        ("coop", "base-to-novel", "dtd", 16, 200),
        ("coop", "base-to-novel", "imagenet", 16, 50),
        ("coop", "cross-dataset", "imagenet", 16, 50),
        ("coop", "few-shot", "dtd", 1, 50),
        ("coop", "few-shot", "dtd", 2, 100),
        ("coop", "few-shot", "dtd", 4, 100),
        ("coop", "few-shot", "dtd", 8, 200),
        ("coop", "few-shot", "dtd", None, 200),
        ("coop", "few-shot", "imagenet", 16, 50),
        ("taskres", "few-shot", "dtd", 4, 100),
        ("taskres", "few-shot", "dtd", 6, 100),
        ("taskres", "few-shot", "dtd", 8, 200),
        ("clip_adapter", "domain-generalisation", "imagenet", 16, 50),
        ("maple", "domain-generalisation", "imagenet", 16, 2),
        ("restore", "cross-dataset", "imagenet", 16, 2),
        ("promptsrc", "few-shot", "dtd", 16, 50),
    ],
)
def test_epochs_as_published(method, protocol, dataset, shots, epochs) -> None:
    recipe = load_recipe(method, chosen_for(method, protocol, dataset, shots, BACKBONE))
    assert recipe.training.epochs == epochs


def test_the_source_is_consulted_across_datasets_and_domains() -> None:
    for protocol in ("cross-dataset", "domain-generalisation"):
        taskres = load_recipe("taskres", chosen_for("taskres", protocol, "imagenet", 16, BACKBONE))
        assert taskres.training.lr == 2e-4
        assert chosen_for("clip_adapter", protocol, "imagenet", 16, BACKBONE) == "imagenet"


def test_variants_share_the_recipes_of_imagenet() -> None:
    for variant in VARIANTS:
        assert chosen_for("tip_adapter", "few-shot", variant, 16, BACKBONE) == "imagenet"


@pytest.mark.parametrize("name", ["tiny", "few_shot", "few_shot_1", "cross_dataset", "shots_4"])
def test_a_folder_that_is_called_like_a_recipe_is_no_recipe(name: str) -> None:
    for method in ("coop", "clip_lora", "maple"):
        assert chosen_for(method, "base-to-novel", name, 16, BACKBONE) == "default"


def test_recipes_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "coop"\n[recipes.photos]\ntraining.epochs = 3\n')
    assert chosen_for(str(mine), "few-shot", "photos", 4, BACKBONE) == "few_shot+few_shot_4+photos"
    assert chosen_for(Recipe(name="mine"), "few-shot", "dtd", 4, "tiny") == "default"
