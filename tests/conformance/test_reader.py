"""What the case files are read as is what the presets are."""

from functools import cache

import pytest
import torch

from conformance.test_cases import backbone, images, method
from restore_vlm.backbone import Backbone
from restore_vlm.method import Gradient, Losses, PromptedModel, load_recipe

SIZES = {"seed": 3, "layers": 3, "image_size": 32}
WORDS = {"ctx_init": "a photo of a"}
PRESETS = {
    "clip": {},
    "coop": WORDS,
    "cocoop": WORDS,
    "kgcoop": WORDS,
    "prograd": {},
    "vpt": {},
    "lpt": {},
    "ivlp": {},
    "ivlp_fs": {},
    "maple": {},
    "promptsrc": {},
    "restore": {"text_ratio": 0.05, "vision_ratio": 0.05, "fs_weight": 1.0},
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_case_with_the_published_sizes_is_the_preset(name: str) -> None:
    preset = load_recipe(name)
    sizes = {"n_ctx": preset.prompts.length, "depth": preset.prompts.depth} if preset.prompts else {}
    read = method({"method": name, **sizes, **PRESETS[name]})
    for part in ("prompts", "surgery", "losses", "gradient", "ensemble", "template"):
        ours, theirs = getattr(read, part), getattr(preset, part)
        if part == "prompts" and ours and (ours.length > 4 or ours.towers == "image"):
            ours, theirs = (p.model_copy(update={"init": ""}) for p in (ours, theirs))
        assert ours == theirs


@cache
def clip() -> Backbone:
    return backbone(SIZES)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("n_ctx", [1, 6])
def test_other_lengths_and_depths_train(name: str, n_ctx: int) -> None:
    config = method({"method": name, "n_ctx": n_ctx, "depth": 2, **PRESETS[name]})
    torch.manual_seed(0)
    model = PromptedModel(clip(), config, ["cat", "cup_cakes", "1967 Ford Mustang"])
    pictures, labels = images(SIZES, 1, 2), torch.tensor([1, 0])
    if not config.trainable:
        assert model(pictures).isfinite().all()
        return
    gradient = Gradient(Losses(config, model), model)
    optimiser = torch.optim.SGD(model.trainable().values(), lr=1e-4)
    seen = []
    for _ in range(3):
        optimiser.zero_grad()
        seen.append(sum(gradient.backward(model, pictures, labels)[1].values()).item())
        optimiser.step()
    assert seen[-1] < seen[0]
