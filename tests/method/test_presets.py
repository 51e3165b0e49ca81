"""Every preset is valid and as published; parts that do not fit are refused with the reason."""

import sys
from pathlib import Path

import pytest
import tomli_w
from pydantic import ValidationError

from restore_vlm import cli
from restore_vlm.errors import UserError
from restore_vlm.method import MethodConfig, Recipe, chooses_depth, load_recipe, methods, recipes
from restore_vlm.method.describe import essential, learned, rules

ALL = [(method, recipe) for method in methods() for recipe in recipes(method)]


@pytest.mark.parametrize(("method", "recipe"), ALL)
def test_every_recipe_of_every_method(method: str, recipe: str, tmp_path: Path) -> None:
    """It is valid, has a source, can be trained, and is shown with all that matters."""
    loaded = load_recipe(method, recipe)
    assert loaded.name == method
    assert loaded.source.startswith("arXiv ")
    assert not loaded.trainable or loaded.training.epochs or loaded.training.iterations
    shown = tmp_path / "shown.toml"
    shown.write_text(tomli_w.dumps(essential(loaded)))
    assert load_recipe(str(shown)) == loaded


@pytest.mark.parametrize("setting", ["heads.cache.search=none", "heads.cache.alpha=2", "heads.cache.views=3"])
def test_a_search_that_is_off_is_shown(setting: str, tmp_path: Path) -> None:
    loaded = load_recipe("tip_adapter", settings=[setting])
    (tmp_path / "shown.toml").write_text(tomli_w.dumps(essential(loaded)))
    assert load_recipe(str(tmp_path / "shown.toml")) == loaded


def test_trainable_methods_have_a_recipe_for_the_tiny_backbone() -> None:
    for method in methods():
        if load_recipe(method).trainable and load_recipe(method).prompts:
            assert "tiny" in recipes(method)


def test_published_restore_recipes() -> None:
    published = {
        "imagenet": (0.05, 0.05, 1),
        "sun397": (0.05, 0.05, 1),
        "ucf101": (0.05, 0.05, 1),
        "fgvc_aircraft": (0.1, 0.1, 1),
        "caltech101": (0.1, 0.1, 1),
        "stanford_cars": (0.1, 0.1, 1),
        "oxford_flowers": (0.1, 0.1, 1),
        "food101": (0.1, 0.1, 1),
        "oxford_pets": (0.01, 0.1, 1),
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
    assert load_recipe("restore", "cross_dataset").training.epochs == 2


@pytest.mark.parametrize(
    ("method", "recipe", "prompts", "training"),
    [
        ("kgcoop", "default", ("text", False, 1, 4), (0.002, 128, 100)),
        ("prograd", "default", ("text", False, 1, 16), (0.002, 4, 10)),
        ("cocoop", "default", ("text", False, 1, 4), (0.002, 1, 10)),
        ("coop", "default", ("text", False, 1, 4), (0.002, 32, 200)),
        ("coop", "imagenet", ("text", False, 1, 4), (0.002, 32, 50)),
        ("coop", "cross_dataset", ("text", False, 1, 4), (0.002, 32, 50)),
        ("coop", "few_shot", ("text", False, 1, 16), (0.002, 32, 200)),
        ("coop", "few_shot+few_shot_4", ("text", False, 1, 16), (0.002, 32, 100)),
        ("coop", "few_shot_2", ("text", False, 1, 16), (0.002, 32, 100)),
        ("coop", "few_shot_1", ("text", False, 1, 16), (0.002, 32, 50)),
        ("coop", "few_shot+few_shot_4+imagenet", ("text", False, 1, 16), (0.002, 32, 50)),
        ("lpt", "default", ("text", False, 12, 4), (0.0025, 4, 5)),
        ("vpt", "default", ("image", False, 12, 8), (0.0025, 4, 5)),
        ("ivlp", "default", ("both", False, 12, 2), (0.0035, 4, 5)),
        ("ivlp_fs", "default", ("both", False, 12, 2), (0.0035, 4, 5)),
        ("maple", "default", ("both", True, 9, 2), (0.0035, 4, 5)),
        ("maple", "cross_dataset", ("both", True, 3, 2), (0.0026, 4, 2)),
        ("promptsrc", "default", ("both", False, 9, 4), (0.0025, 4, 20)),
        ("promptsrc", "cross_dataset", ("both", False, 3, 4), (0.0025, 4, 20)),
        ("promptsrc", "few_shot", ("both", False, 9, 4), (0.0025, 4, 50)),
    ],
)
def test_published_recipes(method: str, recipe: str, prompts: tuple, training: tuple) -> None:
    loaded = load_recipe(method, recipe)
    p, t = loaded.prompts, loaded.training
    assert (p.towers, p.coupled, p.depth, p.length) == prompts
    assert (t.lr, t.batch, t.epochs) == training
    assert (t.optimiser, t.momentum, t.weight_decay, t.warmup_epochs, t.warmup_lr) == (
        "sgd",
        0.9,
        5e-4,
        1,
        1e-5,
    )


def test_published_parts() -> None:
    anchor = load_recipe("kgcoop").losses.text_anchor
    assert (anchor.weight, anchor.distance) == (8, "cosine")
    assert load_recipe("prograd").gradient == "prograd"
    assert load_recipe("clip_ensemble").ensemble
    fs = load_recipe("ivlp_fs").losses.feature_shift
    assert (fs.weight, fs.measure) == (1, "prompt")
    averages = {"default": (15, 1), "cross_dataset": (6, 10), "few_shot": (30, 30), "few_shot_dtd": (45, 5)}
    for name, published in averages.items():
        recipe = load_recipe("promptsrc", name)
        losses = recipe.losses
        assert (recipe.averaging.mean, recipe.averaging.std) == published
        assert (losses.text_anchor.weight, losses.image_anchor.weight, losses.logit_anchor.weight) == (
            25,
            10,
            1,
        )
        assert losses.text_anchor.distance == losses.image_anchor.distance == "l1"
        assert recipe.ensemble


def test_published_recipes_of_the_neighbours() -> None:
    """Starting values of Tip-Adapter, shots of TaskRes and CLIP-LoRA, crops, last batches, templates."""
    alphas = {
        "imagenet": 1.17, "caltech101": 3, "oxford_pets": 1.17, "stanford_cars": 3, "oxford_flowers": 10,
        "food101": 1.17, "fgvc_aircraft": 5, "sun397": 1.17, "dtd": 2, "eurosat": 2, "ucf101": 3,
    }  # fmt: skip
    for dataset, alpha in alphas.items():
        for method in ("tip_adapter", "tip_adapter_f"):
            recipe = load_recipe(method, dataset)
            assert (recipe.heads.cache.alpha, recipe.heads.cache.beta) == (alpha, 1)
            assert recipe.ensemble == ("imagenet_7" if dataset == "imagenet" else False)
        assert recipe.training.epochs == (100 if dataset == "eurosat" else 20)
    for shots in (1, 2, 4):
        four = load_recipe("taskres", f"shots_{shots}+imagenet")
        assert (four.training.epochs, four.training.lr) == (100, 2e-4)
        assert (four.ensemble, four.raw_ensemble) == ("imagenet_8", True)
    assert [load_recipe("clip_lora", f"shots_{k}").training.iterations for k in (1, 2, 4, 8)] == [
        500, 1000, 2000, 4000,
    ]  # fmt: skip
    augmented = {
        "tip_adapter_f": ((0.5, 1), 0.5, True),
        "wise_ft": ((0.9, 1), 0, True),
        "clip_lora": ((0.08, 1), 0.5, True),
        "taskres": ((0.08, 1), 0.5, False),
        "clip_adapter": ((0.08, 1), 0.5, False),
    }
    for method in methods():
        training = load_recipe(method).training
        expected = augmented.get(method, ((0.08, 1), 0.5, False))
        assert (training.crop, training.flip, training.keep_last) == expected
    assert load_recipe("tip_adapter").heads.cache.crop == (0.5, 1)
    assert load_recipe("wise_ft", "imagenet").ensemble == "imagenet_80"
    assert [name for name in methods() if load_recipe(name).fixed_template] == ["clip_lora"]


def test_recipes_are_laid_one_over_another() -> None:
    both = load_recipe("promptsrc", "few_shot+few_shot_dtd")
    assert (both.training.epochs, both.averaging.mean) == (50, 45)
    assert load_recipe("coop", "default+few_shot") == load_recipe("coop", "few_shot")
    with pytest.raises(UserError, match="Unknown recipe of coop 'few_shots'"):
        load_recipe("coop", "few_shot+few_shots")


def test_files_of_before_mean_what_they_meant() -> None:
    """Keys that came later are absent in them, and are not written where they say nothing else."""
    recipe = load_recipe("restore", "tiny")
    written = recipe.model_dump(mode="json")
    later = {"crop", "flip", "keep_last", "raw_ensemble", "fixed_template"}
    assert not later & (written.keys() | written["training"].keys())
    assert written["ensemble"] is False
    assert Recipe.model_validate(written) == recipe
    assert Recipe.model_validate(written | {"ensemble": True}).ensemble is True
    assert load_recipe("restore", "tiny", ["ensemble=promptsrc_60"]).ensemble is True
    changed = load_recipe("restore", settings=["training.crop=[0.2, 0.9]", "training.flip=0"])
    assert Recipe.model_validate(changed.model_dump(mode="json")) == changed


def test_templates_of_data_sets() -> None:
    assert load_recipe("clip", "dtd").template == "{} texture."
    assert load_recipe("kgcoop", "dtd").template == "a photo of a {}, a type of texture."
    assert load_recipe("prograd", "dtd").template == "a texture of {}."


def test_settings_switch_and_replace_parts() -> None:
    recipe = load_recipe("restore", settings=["surgery=none", "losses.feature_shift.measure=embedding"])
    assert recipe.surgery is None
    assert recipe.losses.feature_shift.measure == "embedding"
    assert load_recipe("maple", settings=["losses.feature_shift.weight=2"]).losses.feature_shift.weight == 2
    assert load_recipe("ivlp", settings=["surgery.text_ratio=0.1"]).surgery.text_ratio == 0.1
    assert load_recipe("restore", settings=["losses.feature_shift=none"]).losses.feature_shift is None
    assert not load_recipe("restore", settings=["surgery.dynamic=false"]).surgery.dynamic
    assert load_recipe("maple", settings=["heads=none", "weights=none"]) == load_recipe("maple")
    both = load_recipe("kgcoop", settings=["gradient=prograd", "averaging.kind=interpolation"])
    assert (both.gradient, both.averaging.kind) == ("prograd", "interpolation")


def test_a_method_file_may_start_from_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "restore"\n[surgery]\ndynamic = false\n')
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.surgery.dynamic, recipe.prompts.coupled) == ("mine", False, True)
    path.write_text('base = "restore"\nsurgery = "none"\n[losses]\nfeature_shift = "none"\n')
    recipe = load_recipe(str(path), "eurosat", ["losses.text_anchor.weight=8"])
    assert recipe.losses.feature_shift is None
    assert recipe.losses.text_anchor.weight == 8
    assert recipe.surgery.vision_ratio == 0.01, "a later recipe may bring a part back"
    again = tmp_path / "again.toml"
    again.write_text(f'base = "{path}"\n[prompts]\nlength = 3\n')
    recipe = load_recipe(str(again))
    assert (recipe.name, recipe.surgery, recipe.prompts.length) == ("again", None, 3)
    path.write_text(f'base = "{again}"\n')
    with pytest.raises(UserError, match="starts from itself"):
        load_recipe(str(path))
    path.write_text("[prompts\n")
    with pytest.raises(UserError, match="not valid TOML"):
        load_recipe(str(path))


def test_chosen_depths(tmp_path: Path) -> None:
    """Only published depths are scaled to a backbone."""
    assert not chooses_depth("restore")
    assert not chooses_depth("promptsrc", "cross_dataset")
    assert not chooses_depth("restore", settings=["prompts.length=4", "training.lr=0.1"])
    assert chooses_depth("restore", "tiny")
    assert chooses_depth("ivlp_fs", "tiny")
    assert chooses_depth("restore", settings=["prompts.depth=9"])
    path = tmp_path / "mine.toml"
    path.write_text('base = "restore"\n[prompts]\nlength = 4\n[recipes.deep]\nprompts.depth = 7\n')
    assert not chooses_depth(str(path))
    assert not chooses_depth(str(path), "eurosat")
    assert chooses_depth(str(path), "deep")
    assert chooses_depth(str(path), "tiny")
    path.write_text('base = "restore"\nprompts.depth = 9\n')
    assert chooses_depth(str(path))


REFUSED = [
    ("vpt", ["losses.feature_shift.weight=1"], "needs prompts in both"),
    ("kgcoop", ["losses.feature_shift.measure=embedding"], "needs prompts in both"),
    ("clip", ["losses.feature_shift.weight=1"], "needs prompts in both"),
    ("maple", ["prompts.towers=text"], 'coupled prompts need towers = "both"'),
    ("maple", ["prompts.per_class=true"], "neither on the class nor on the image"),
    ("restore", ["prompts.conditional=true"], "neither on the class nor on the image"),
    ("vpt", ["prompts.class_position=front"], "there are none"),
    ("vpt", ["prompts.conditional=true"], "there are none"),
    ("kgcoop", ["prompts.per_class=true", "prompts.conditional=true"], "either per class or conditional"),
    ("kgcoop", ["prompts.conditional=true"], "no fixed text features to anchor"),
    ("ivlp_fs", ["prompts.conditional=true"], "no fixed text tower"),
    ("maple", ["losses.cross_entropy=none"], "no loss to learn it with"),
    ("vpt", ["losses.cross_entropy=none", "losses.text_anchor.weight=1"], "no loss reaches what is learned"),
    (
        "kgcoop",
        ["losses={cross_entropy='none',text_anchor='none',image_anchor={weight=1}}"],
        "no loss reaches",
    ),
    ("clip", ["weights.lora.rank=2", "weights.finetune.towers=image"], "not both"),
    ("maple", ["heads.linear_probe.c=1"], "nothing else can be learned beside it"),
    ("clip", ["averaging.kind=interpolation"], "no learned weights to average"),
    ("clip", ["template=a photo"], "where the class name goes"),
    ("clip", ["ensemble=imagenet_9"], "no set of templates 'imagenet_9'"),
    ("clip", ["ensemble=['a photo of a {}.', 'a photo']"], "where the class name goes"),
    ("clip", ["ensemble=[]"], "at least one"),
    ("maple", ["training.crop=[0, 1]"], "least and largest share"),
    ("maple", ["training.crop=[0.9, 0.1]"], "least and largest share"),
    ("maple", ["training.flip=true"], "training.flip"),
    ("maple", ["training.flip=2"], "training.flip"),
    ("maple", ["averaging.std=0"], "averaging.std"),
    ("maple", ["gradient=agree"], "gradient"),
]


@pytest.mark.parametrize(("method", "settings", "reason"), REFUSED)
def test_what_does_not_fit_is_refused_with_the_reason(
    method: str, settings: list[str], reason: str, monkeypatch, capsys
) -> None:
    with pytest.raises(UserError, match="Method") as refusal:
        load_recipe(method, settings=settings)
    assert reason in str(refusal.value)
    options = [word for setting in settings for word in ("--set", setting)]
    monkeypatch.setattr(
        sys, "argv", ["restore-vlm", "train", ".", "--recipe", "default", "--method", method, *options]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert reason in error.replace("\n", " ")
    assert "Traceback" not in error


def test_refused_in_python() -> None:
    with pytest.raises(ValidationError, match="needs prompts in both"):
        MethodConfig(name="mine", prompts={"towers": "text"}, losses={"feature_shift": {}})


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("restore", ["surgery=none"]),
        ("restore", ["losses.feature_shift=none"]),
        ("restore", ["surgery.dynamic=false"]),
        ("restore", ["losses.feature_shift.measure=embedding"]),
        ("restore", ["prompts.coupled=false"]),
        ("restore", ["losses.text_anchor={weight=8,distance='cosine'}"]),
        ("promptsrc", ["averaging=none"]),
        ("promptsrc", ["losses.logit_anchor=none"]),
        ("promptsrc", ["prompts.coupled=true"]),
        ("promptsrc", ["ensemble=false"]),
        ("prograd", ["gradient=plain"]),
        ("kgcoop", ["losses.text_anchor=none"]),
        ("maple", ["losses={cross_entropy='none',image_anchor={weight=1}}"]),
    ],
)
def test_ablations_are_one_setting(method: str, settings: list[str]) -> None:
    assert load_recipe(method, settings=settings) != load_recipe(method)


def test_methods_in_words() -> None:
    assert learned(load_recipe("clip")) == rules(load_recipe("clip")) == "-"
    assert learned(load_recipe("restore")) == "text + image prompts 9x2, coupled; dynamic surgery"
    assert rules(load_recipe("restore")) == "cross entropy, feature shift"
    assert rules(load_recipe("prograd")) == "cross entropy, prograd gradient"
    words = rules(load_recipe("promptsrc"))
    assert words == "cross entropy, text anchor, image anchor, logit anchor, Gaussian average"


def test_only_what_matters_is_shown() -> None:
    shown = tomli_w.dumps(essential(load_recipe("restore", "eurosat")))
    assert "vision_ratio = 0.01" in shown
    for idle in ("template", "conditional", "weights", "heads", "eps", "gradient", "ensemble", "averaging"):
        assert idle not in shown
    assert essential(load_recipe("clip_ensemble")).keys() == {"name", "ensemble", "source", "training"}
    assert "init" not in essential(load_recipe("vpt"))["prompts"]
    assert essential(load_recipe("vpt"))["template"] == "a photo of a {}."
    assert essential(load_recipe("prograd"))["gradient"] == "prograd"


def test_a_recipe_made_in_python_is_taken_as_it_is() -> None:
    mine = Recipe(name="mine", prompts={"depth": 3}, losses={"feature_shift": {}}, training={"epochs": 1})
    assert load_recipe(mine) == mine
    assert recipes(mine) == ["default"]
    assert chooses_depth(mine)
    assert load_recipe(mine, settings=["prompts.depth=2"]).prompts.depth == 2
    with pytest.raises(UserError, match="Method mine: there is no setting 'prompt'"):
        load_recipe(mine, settings=["prompt=2"])


def test_epochs_that_are_set_replace_iterations() -> None:
    assert load_recipe("clip_lora").training.iterations
    assert load_recipe("clip_lora", settings=["training.epochs=1"]).training.iterations is None
