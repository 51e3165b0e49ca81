"""Presets and mixtures of their parts learn, are saved and loaded, and predict the same."""

from functools import cache

import open_clip
import pytest
import torch
from torch import nn

from backbone.tiny_models import SIGLIP, TEXT, TOKENIZER, VISION, build, images, wrap
from restore_vlm.backbone import Backbone
from restore_vlm.method import (
    Gradient,
    Losses,
    PromptedModel,
    Recipe,
    load_recipe,
    methods,
    recipes,
)
from restore_vlm.training import read_tensors, write_tensors

NAMES = ["tabby cat", "dog", "Boeing 737-800", "cup_cakes", "forget-me-not"]
NOVEL = ["goldfish", "a very_long name of something unseen", "dog"]
STEPS = 3
ANCHORS = (
    "losses.text_anchor={weight=25,distance='l1'}",
    "losses.image_anchor={weight=10,distance='l1'}",
    "losses.logit_anchor={weight=1}",
)
COMPOSITIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "PromptSRC's losses on coupled prompts": ("maple", ("ensemble=true", *ANCHORS)),
    "RESTORE with KgCoOp's anchor": ("restore", ("losses.text_anchor={weight=8,distance='cosine'}",)),
    "RESTORE with everything of PromptSRC": ("restore", ("ensemble=true", "averaging.mean=2", *ANCHORS)),
    "RESTORE without surgery": ("restore", ("surgery=none",)),
    "RESTORE without L_fs": ("restore", ("losses.feature_shift=none",)),
    "RESTORE with fixed ratios": ("restore", ("surgery.dynamic=false",)),
    "RESTORE on independent prompts": ("restore", ("prompts.coupled=false",)),
    "L_fs by embeddings on coupled prompts": ("maple", ("losses.feature_shift.measure=embedding",)),
    "L_fs by prompts on coupled prompts": ("maple", ("losses.feature_shift.measure=prompt",)),
    "L_fs by embeddings on independent prompts": ("ivlp", ("losses.feature_shift.measure=embedding",)),
    "L_fs by embeddings with PromptSRC": ("promptsrc", ("losses.feature_shift.measure=embedding",)),
    "surgery on a text context": ("kgcoop", ("losses.text_anchor=none", "surgery.text_ratio=0.1")),
    "surgery on image prompts": ("vpt", ("surgery.vision_ratio=0.2",)),
    "surgery alone": ("clip", ("surgery.text_ratio=0.1", "training.epochs=1")),
    "surgery on an ensemble": ("clip_ensemble", ("surgery.text_ratio=0.1", "training.epochs=1")),
    "ProGrad on coupled prompts": ("maple", ("gradient=prograd",)),
    "ProGrad on RESTORE": ("restore", ("gradient=prograd",)),
    "KgCoOp with ProGrad": ("kgcoop", ("gradient=prograd",)),
    "averaging on RESTORE": ("restore", ("averaging={mean=2,std=1}",)),
    "interpolation on RESTORE": ("restore", ("averaging={kind='interpolation',alpha=0.5}",)),
    "an ensemble beside image prompts": ("vpt", ("ensemble=true",)),
    "KgCoOp's anchor on deep text prompts": ("kgcoop", ("prompts.depth=3", "prompts.length=2")),
    "an anchor alone": ("maple", ("losses.cross_entropy=none", "losses.logit_anchor.weight=1")),
}
PRESETS = {f"{method} ({recipe})": (method, recipe) for method in methods() for recipe in ("default", "tiny")
           if recipe in recipes(method)}  # fmt: skip


@cache
def towers(kind: str) -> tuple[nn.Module, Backbone]:
    """Random weights, odd widths, unequal depths."""
    if kind == "siglip":
        model = build(**SIGLIP | {"text_cfg": SIGLIP["text_cfg"] | {"layers": 4, "context_length": 40}})
        return model, wrap(model, open_clip.SimpleTokenizer(context_length=40))
    vision, text = VISION | {"width": 80, "layers": 5}, TEXT | {"width": 48, "layers": 2}
    model = build(embed_dim=36, vision_cfg=vision, text_cfg=text)
    return model, wrap(model, TOKENIZER)


def learn(recipe: Recipe, kind: str) -> PromptedModel:
    """A model after three steps, one per epoch, as the training loop would make them."""
    backbone = towers(kind)[1]
    torch.manual_seed(0)
    model = PromptedModel(backbone, recipe, NAMES).train()
    pictures, labels = images(backbone, 4), torch.tensor([0, 3, 1, 4])
    fit(model, labels)
    if not recipe.trainable:
        return model.eval()
    learned, gradient = model.trainable(), Gradient(Losses(recipe, model), model)
    before = {name: p.detach().clone() for name, p in learned.items()}
    frozen = {name: p.clone() for name, p in backbone.named_parameters()}
    average = recipe.averaging.build(STEPS, learned) if recipe.averaging else None
    optimiser = torch.optim.SGD(learned.values(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    for epoch in range(STEPS):
        terms = gradient.backward(model, pictures, labels)[1]
        assert set(terms) == {name for name, part in recipe.losses if part is not None}
        assert all(term.isfinite() for term in terms.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in learned.values())
        optimiser.step()
        optimiser.zero_grad()
        model.end_epoch(epoch, STEPS)
        if average:
            average.add(epoch, {name: p.detach() for name, p in learned.items()})
    for name, value in average.state.items() if average else ():
        learned[name].data.copy_(value)
    assert learned.keys() == model.trainable().keys()
    assert all(p.dtype == torch.float32 for p in learned.values())
    moved = [name for name, p in learned.items() if not torch.equal(p, before[name])]
    assert len(moved) > len(learned) / 2
    assert all(torch.equal(p, frozen[name]) for name, p in backbone.named_parameters())
    return model.eval()


def fit(model: PromptedModel, labels: torch.Tensor) -> None:
    """Heads that are made of the training images rather than learned."""
    features = torch.randn(len(labels), model.backbone.dim)
    for head in (getattr(model.heads, "cache", None), getattr(model.heads, "probe", None)):
        if head is not None:
            head.fit(features, labels)


def check(recipe: Recipe, kind: str, folder) -> None:
    model = learn(recipe, kind)
    write_tensors(
        folder / "adapter.safetensors", model.adapter_state(), {"method": recipe.model_dump(mode="json")}
    )
    tensors, header = read_tensors(folder / "adapter.safetensors")
    torch.manual_seed(1)
    loaded = PromptedModel(model.backbone, Recipe.model_validate(header["method"]), NAMES).eval()
    missing, unexpected = loaded.load_state_dict(tensors, strict=False)
    assert unexpected == []
    assert not set(missing) & set(model.adapter_state())
    pictures = images(model.backbone, 3)
    per_class = recipe.prompts is not None and recipe.prompts.per_class
    for names in (NAMES, NAMES[::-1]) if per_class else (NAMES, NOVEL, NAMES[::-1]):
        model.set_classes(names)
        loaded.set_classes(names)
        with torch.inference_mode():
            logits = model.scorer()(pictures)
            assert logits.shape == (3, len(names))
            assert logits.isfinite().all()
            assert torch.equal(loaded.scorer()(pictures), logits)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("preset", PRESETS)
def test_preset(preset: str, kind: str, tmp_path) -> None:
    check(load_recipe(*PRESETS[preset]), kind, tmp_path)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_composition(composition: str, kind: str, tmp_path) -> None:
    method, settings = COMPOSITIONS[composition]
    check(load_recipe(method, settings=settings), kind, tmp_path)


def test_a_part_that_is_removed_is_as_if_never_there() -> None:
    """RESTORE without surgery and L_fs is MaPLe, to the bit."""
    bare = learn(load_recipe("restore", settings=("surgery=none", "losses.feature_shift=none")), "clip")
    maple = learn(load_recipe("maple"), "clip")
    assert all(torch.equal(p, maple.trainable()[name]) for name, p in bare.trainable().items())
