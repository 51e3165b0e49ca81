from pathlib import Path

import pytest

from restore_vlm.errors import UserError
from restore_vlm.method import load_recipe, methods, recipes


@pytest.mark.parametrize("method", ["clip", "vpt", "ivlp", "maple", "restore"])
def test_every_recipe_of_every_method_is_valid(method: str) -> None:
    assert method in methods()
    for recipe in recipes(method):
        assert load_recipe(method, recipe).name == method


def test_published_restore_recipes() -> None:
    published = {
        "imagenet": (0.05, 0.05, 1),
        "eurosat": (0.01, 0.1, 1),
        "dtd": (0.15, 0.1, 0.5),
        "default": (0.05, 0.05, 1),
    }
    for name, (vision, text, weight) in published.items():
        recipe = load_recipe("restore", name)
        assert (recipe.surgery.vision_ratio, recipe.surgery.text_ratio) == (vision, text)
        assert recipe.losses.feature_shift.weight == weight
        assert (recipe.prompts.depth, recipe.prompts.length, recipe.prompts.coupled) == (9, 2, True)
        assert (recipe.training.lr, recipe.training.batch, recipe.training.epochs) == (0.0035, 4, 10)


def test_settings_switch_and_replace_parts() -> None:
    recipe = load_recipe("restore", settings=["surgery=none", "losses.feature_shift.measure=embedding"])
    assert recipe.surgery is None
    assert recipe.losses.feature_shift.measure == "embedding"
    assert load_recipe("maple", settings=["losses.feature_shift.weight=2"]).losses.feature_shift.weight == 2
    assert load_recipe("ivlp", settings=["surgery.text_ratio=0.1"]).surgery.text_ratio == 0.1
    assert load_recipe("restore", settings=["losses.feature_shift=none"]).losses.feature_shift is None


def test_a_method_file_may_start_from_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "restore"\n[surgery]\ndynamic = false\n')
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.surgery.dynamic, recipe.prompts.coupled) == ("mine", False, True)
    path.write_text("[prompts\n")
    with pytest.raises(UserError, match="not valid TOML"):
        load_recipe(str(path))
