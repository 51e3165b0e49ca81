from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from backbone.tiny_models import images, tiny
from restore_vlm import Classifier, fit
from restore_vlm.data import Images, Item, train_transform
from restore_vlm.data import test_transform as plain_transform
from restore_vlm.errors import UserError
from restore_vlm.method import MethodConfig, PromptedModel, load_recipe
from restore_vlm.method.heads import (
    Cache,
    CacheConfig,
    ClipAdapter,
    ClipAdapterConfig,
    LinearProbe,
    TaskResidual,
    TaskResidualConfig,
)
from restore_vlm.training import Progress, RunConfig, run, training_images
from restore_vlm.training.fitting import fit_heads, tune_heads

NAMES = ["cat", "fire truck", "tea"]
ASKED = ["tea", "unicorn", "cat"]
ROWS = torch.tensor([2, -1, 0])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(random(*shape, seed=seed), dim=-1)


def build(**heads: dict) -> PromptedModel:
    torch.manual_seed(0)
    return PromptedModel(tiny("gelu")[1], MethodConfig(name="it", heads=heads), NAMES)


def test_clip_adapter_is_its_formula() -> None:
    head = ClipAdapter(ClipAdapterConfig(ratio=0.3, reduction=4), 8).double()
    f, (down, up) = random(5, 8), list(head.parameters())
    assert (down.shape, up.shape) == ((2, 8), (8, 2))
    expected = 0.7 * f + 0.3 * (up @ (down @ f.T).relu()).relu().T
    torch.testing.assert_close(head(f), expected)
    torch.autograd.gradcheck(head, f.requires_grad_())


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8)])
def test_task_residual_is_its_formula(shape: tuple[int, ...]) -> None:
    head = TaskResidual(TaskResidualConfig(alpha=0.5), 8, 4).double()
    t = random(*shape)
    assert torch.equal(head(t, ROWS), t)
    head.residual.data = random(4, 8, seed=1)
    expected = t.clone()
    expected[..., 0, :] += 0.5 * head.residual[2]
    expected[..., 2, :] += 0.5 * head.residual[0]
    torch.testing.assert_close(head(t, ROWS), expected)
    torch.autograd.gradcheck(lambda t, x: head(t, ROWS), (t.requires_grad_(), head.residual))


@pytest.mark.parametrize("learned", [False, True])
def test_cache_is_its_formula(learned: bool) -> None:
    head = Cache(CacheConfig(alpha=1.3, beta=4, learned=learned), 8, 4).double()
    keys, labels = random(6, 8, seed=1), torch.tensor([2, 0, 3, 0, 2, 2])
    head.fit(keys, labels)
    f, logits = unit(5, 8, seed=2), random(5, 3, seed=3)
    affinity = f @ F.normalize(keys, dim=-1).T
    votes = torch.exp(-4 * (1 - affinity)) @ F.one_hot(labels, 4).double()
    expected = logits + 1.3 * torch.stack([votes[:, 2], 0 * votes[:, 1], votes[:, 0]], dim=1)
    torch.testing.assert_close(head(logits, f, ROWS), expected)
    assert [n for n, _ in head.named_parameters()] == ["keys"] * learned
    f.requires_grad_()
    torch.autograd.gradcheck(lambda f, keys: head(logits, f, ROWS), (f, head.keys.requires_grad_()))


def test_cache_without_keys_changes_nothing() -> None:
    logits = random(5, 3)
    assert torch.equal(Cache(CacheConfig(), 8, 4).double()(logits, unit(5, 8), ROWS), logits)


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_probe_is_scikit_learns(classes: int) -> None:
    features, labels = random(40, 8), torch.arange(40) % classes
    head = LinearProbe(3.0, 8, classes).double()
    head.fit(features, labels)
    reference = LogisticRegression(C=3.0, max_iter=1000).fit(F.normalize(features, dim=-1), labels)
    f = unit(9, 8, seed=1)
    mine = head(random(9, classes), f, torch.arange(classes)).softmax(-1)
    torch.testing.assert_close(mine, torch.from_numpy(reference.predict_proba(f)))
    assert (mine.argmax(-1).numpy() == reference.predict(f)).all()


def test_linear_probe_leaves_what_it_has_not_seen_to_the_towers() -> None:
    head = LinearProbe(3.0, 8, 4).double()
    head.fit(random(30, 8), torch.tensor([0, 1, 3] * 10))
    logits, f = random(5, 4, seed=1), unit(5, 8)
    out = head(logits, f, torch.tensor([2, 3, -1, 0]))
    assert torch.equal(out[:, [0, 2]], logits[:, [0, 2]])
    torch.testing.assert_close(out[:, [1, 3]], (f @ head.weight.T + head.bias)[:, [3, 0]])
    with pytest.raises(UserError, match="at least two"):
        LinearProbe(1.0, 8, 4).fit(random(3, 8), torch.zeros(3))


@pytest.mark.parametrize(
    "heads",
    [
        {"clip_adapter": {"ratio": 0}},
        {"task_residual": {}},
        {"cache": {"alpha": 0, "learned": True}},
        {"cache": {"alpha": 0}, "task_residual": {}, "clip_adapter": {"ratio": 0}},
    ],
)
def test_heads_at_rest_are_zero_shot(heads: dict, photos: Path) -> None:
    model, plain = build(**heads), build()
    fit_heads(model, items(photos), seed=1)
    x = images(model.backbone)
    for names in (NAMES, ASKED):
        model.set_classes(names)
        plain.set_classes(names)
        torch.testing.assert_close(model(x), plain(x))


def items(photos: Path) -> list[Item]:
    folders = sorted(photos.iterdir())[: len(NAMES)]
    return [Item(p, i) for i, f in enumerate(folders) for p in sorted(f.iterdir())[:2]]


def test_keys_are_mean_features_of_crops(photos: Path) -> None:
    model = build(cache={"views": 3}, linear_probe={})
    moved: list[tuple[int, int]] = []
    fit_heads(model, items(photos), 5, lambda *count: moved.append(count))
    cache, backbone = model.heads.cache, model.backbone
    assert moved[-1] == (24, 24)
    assert cache.labels.tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(cache.keys.norm(dim=-1), torch.ones(6))
    crops = Images(items(photos), train_transform(backbone.preprocess, (0.5, 1.0)), seed=5)
    total = torch.zeros(backbone.dim)
    for view in range(3):
        crops.set_epoch(view)
        total += backbone.image(crops[4][0][None])[0][0].detach()
    torch.testing.assert_close(cache.keys[4], F.normalize(total, dim=-1))
    again, other = build(cache={"views": 3}), build(cache={"views": 3})
    fit_heads(again, items(photos), 5)
    fit_heads(other, items(photos), 6)
    assert torch.equal(again.heads.cache.keys, cache.keys)
    assert not torch.equal(other.heads.cache.keys, cache.keys)
    small = build(cache={"views": 3, "crop": (0.08, 1.0)})
    fit_heads(small, items(photos), 5)
    assert not torch.equal(small.heads.cache.keys, cache.keys)


@pytest.mark.parametrize(
    "method",
    ["linear_probe", "tip_adapter", "tip_adapter_f", "clip_adapter", "taskres", "clip_lora", "wise_ft"],
)
def test_trained_saved_and_loaded_it_predicts_the_same(photos: Path, tmp_path: Path, method: str) -> None:
    settings = ["training.epochs=1"]
    if method.startswith("tip"):
        settings.append("heads.cache.views=2")
    if method == "clip_lora":
        settings.append("training.iterations=2")
    fitted = fit(photos, method, shots=2, precision="fp32", settings=settings, out=tmp_path / "run")
    some = sorted(photos.rglob("*.webp"))[::7]
    for loaded in (Classifier.load(tmp_path / "run"), saved(fitted, tmp_path)):
        assert loaded.predict(some) == fitted.predict(some)
        names = ["red panda", loaded.classes[0]]
        assert loaded.predict(some, classes=names) == fitted.predict(some, classes=names)
    config = RunConfig(
        data=str(photos), method=method, shots=2, precision="fp32", settings=tuple(settings), validation=0.2
    )
    run(config, tmp_path / "run", Progress(on_step=lambda *step: pytest.fail("trained again")))


def test_a_search_over_alpha_and_beta_is_the_plain_one() -> None:
    head = Cache(CacheConfig(alpha=1.0, beta=5.5), 8, 3).double()
    centres = unit(3, 8, seed=9)
    labels = torch.arange(30) % 3
    head.fit(centres[labels] + 0.7 * random(30, 8, seed=1), labels)
    f = F.normalize(centres[labels] + 0.7 * random(30, 8, seed=2), dim=-1)
    logits = 3 * f @ F.normalize(centres + 0.6 * random(3, 8, seed=3), dim=-1).T

    def right(alpha: float, beta: float) -> int:
        votes = (-beta * (1 - f @ head.keys.T)).exp() @ F.one_hot(head.labels, 3).double()
        return int(((logits + alpha * votes).argmax(-1) == labels).sum())

    found = {
        (beta, alpha): right(alpha, beta)
        for beta in (0.1 + i * 6.9 / 200 for i in range(200))
        for alpha in (0.1 + i * 2.9 / 20 for i in range(20))
    }
    best, before = max(found.values()), right(1.0, 5.5)
    assert best > before
    choice = head.choose(logits, f, torch.arange(3), labels, (7, 3))
    beta, alpha = next(pair for pair, count in found.items() if count == best)
    assert (choice.before, choice.after, choice.photos) == (before / 30, best / 30, 30)
    assert (head.alpha, head.beta) == pytest.approx((alpha, beta))
    assert choice.settings == {"heads.cache.alpha": head.alpha, "heads.cache.beta": head.beta}


def test_the_recipes_alpha_and_beta_stay_unless_others_are_better() -> None:
    head = Cache(CacheConfig(alpha=1.17, beta=1.0), 8, 2).double()
    keys = unit(2, 8)
    head.fit(keys, torch.tensor([0, 1]))
    choice = head.choose(10 * keys @ keys.T, keys, torch.arange(2), torch.tensor([0, 1]), (7, 3))
    assert (head.alpha, head.beta, choice.after) == (1.17, 1.0, 1)


def test_a_search_over_c_takes_what_is_right_most_often() -> None:
    centres, labels = 0.4 * random(4, 16, seed=9), torch.arange(60) % 4
    features = centres[labels] + random(60, 16, seed=1)
    validation = centres[labels] + random(60, 16, seed=2)

    def right(c: float) -> float:
        head = LinearProbe(c, 16, 4).double()
        head.fit(features, labels)
        guesses = head(random(60, 4), F.normalize(validation, dim=-1), torch.arange(4)).argmax(-1)
        return (guesses == labels).double().mean().item()

    head = LinearProbe(31.6, 16, 4).double()
    choice = head.choose(features, labels, validation, labels)
    assert choice.settings == {"heads.linear_probe.c": head.c}
    assert choice.before == pytest.approx(right(31.6))
    assert choice.after == pytest.approx(right(head.c))
    coarse = max(right(31.6 * 10**d) for d in range(-6, 7, 2))
    assert choice.after >= coarse >= choice.before
    assert choice.after > choice.before


@pytest.mark.parametrize(
    ("setting", "searches"),
    [
        ("heads.cache.views=2", True),
        ("heads.cache.alpha=2", False),
        ("heads.cache.beta=2", False),
        ("heads.cache.search=none", False),
    ],
)
def test_a_value_that_is_set_is_not_searched(setting: str, searches: bool) -> None:
    assert load_recipe("tip_adapter", settings=[setting]).searches is searches


def test_a_c_that_is_set_is_not_searched() -> None:
    assert load_recipe("linear_probe").searches
    assert not load_recipe("linear_probe", settings=["heads.linear_probe.c=1"]).searches
    both = ["heads.linear_probe.c=1", "heads.linear_probe.search=true"]
    assert load_recipe("linear_probe", settings=both).searches
    assert not load_recipe("restore").searches


@pytest.mark.parametrize("method", ["tip_adapter", "tip_adapter_f", "linear_probe"])
def test_what_was_chosen_is_kept_and_its_photos_are_not_tested_on(
    photos: Path, tmp_path: Path, method: str
) -> None:
    settings = ["training.epochs=1"] + ["heads.cache.views=2"] * method.startswith("tip")
    said: list[str] = []
    options = {"shots": 2, "precision": "fp32", "settings": settings, "progress": Progress(say=said.append)}
    fitted = fit(photos, method, out=tmp_path / "run", **options)
    chosen = fitted.header["chosen"]
    assert chosen["photos"] == 8
    assert chosen["after"] >= chosen["before"]
    assert sum("chosen on 8 validation photos" in text for text in said) == 1
    loaded = Classifier.load(tmp_path / "run")
    heads = loaded.header["method"]["heads"]
    for key, value in chosen["settings"].items():
        _, head, name = key.split(".")
        assert heads[head][name] == value
        assert value == getattr(getattr(loaded.model.heads, loaded.model.heads.names[head]), name)
    assert len(training_images(tmp_path / "run")) == 4 * 2 + 8
    assert loaded.evaluate(photos).images == 4 * 6 - 16
    assert loaded.validation == fitted.validation
    assert fitted.validation is not None and fitted.validation.photos == 8 and not fitted.validation.reused
    plain = fit(photos, method, validation=None, **options)
    assert "chosen" not in plain.header


def test_settings_are_chosen_on_validation_photos(photos: Path) -> None:
    """The probe's c before training, the cache's alpha and beta after it, with all else as it is then."""
    chosen_on = [
        Item(p, i)
        for i, f in enumerate(sorted(photos.iterdir())[: len(NAMES)])
        for p in sorted(f.iterdir())[2:]
    ]
    config = {"cache": {"views": 2}, "linear_probe": {"c": 1.0}}
    assert MethodConfig(name="it", heads=config).searches
    model, moved = build(**config), []
    choice = fit_heads(model, items(photos), 1, lambda *count: moved.append(count), chosen_on)
    assert moved[-1] == (6 * 3 + 12, 6 * 3 + 12)
    assert choice.settings == {"heads.linear_probe.c": model.heads.probe.c}
    assert choice.photos == 12
    tuned = tune_heads(model, chosen_on)
    assert tuned.settings == {
        "heads.cache.alpha": model.heads.cache.alpha,
        "heads.cache.beta": model.heads.cache.beta,
    }
    other = build(**config)
    fit_heads(other, items(photos), 1)
    for chosen in (choice, tuned):
        other.heads.take(chosen)
    assert (other.heads.probe.c, other.heads.cache.beta) == (model.heads.probe.c, model.heads.cache.beta)
    fixed = build(cache={"views": 2, "search": None}, linear_probe={"search": False})
    assert not fixed.config.searches
    assert fit_heads(fixed, items(photos), 1, validation=chosen_on) is tune_heads(fixed, chosen_on) is None
    assert tune_heads(model, []) is None


def test_a_head_is_tuned_beside_the_others(photos: Path) -> None:
    model = build(cache={"views": 1, "alpha": 0.0, "beta": 1.0}, clip_adapter={"ratio": 0.5})
    fit_heads(model, items(photos), 1)
    tuned = tune_heads(model, items(photos))
    seen = Images(items(photos), plain_transform(model.backbone.preprocess))
    pictures, labels = map(list, zip(*seen, strict=True))
    right = (model(torch.stack(pictures)).argmax(-1) == torch.tensor(labels)).float().mean().item()
    assert tuned.after == pytest.approx(right)
    assert tuned.after > tuned.before


def saved(classifier: Classifier, folder: Path) -> Classifier:
    classifier.save(folder / "copy")
    return Classifier.load(folder / "copy")


def test_surgery_and_prompts_around_every_head(photos: Path) -> None:
    config = MethodConfig(
        name="all", prompts={"depth": 2}, surgery={}, weights={"lora": {}},
        heads={"clip_adapter": {}, "task_residual": {}, "cache": {"views": 1, "learned": True}},
        losses={"text_anchor": {}, "image_anchor": {}, "logit_anchor": {}},
    )  # fmt: skip
    model = PromptedModel(tiny("gelu")[1], config, NAMES)
    fit_heads(model, items(photos), 1)
    out = model(images(model.backbone))
    F.cross_entropy(out, torch.tensor([0, 1])).backward()
    missing = [n for n, p in model.trainable().items() if p.grad is None]
    assert not missing
