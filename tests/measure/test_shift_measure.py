"""Measured feature shift against a direct computation with hooks on plain open_clip."""

from pathlib import Path

import pytest
import torch
from restore_vlm.measure.shift import frozen_embeddings, measure
from torch import Tensor

from backbone.tiny_models import images, tiny
from oracle import plain_states_image, plain_states_text
from restore_vlm import Classifier, UserError
from restore_vlm.method import MethodConfig, PromptedModel

NAMES = ["tabby cat", "dog", "Boeing 737-800", "cup_cakes"]
PROMPTS = {"towers": "both", "depth": 2}


def classifier(kind: str = "quickgelu", **parts) -> Classifier:
    torch.manual_seed(0)
    model = PromptedModel(tiny(kind)[1], MethodConfig(name="test", **parts), NAMES)
    return Classifier(model, {"classes": NAMES})


def hooked(modules: list, call) -> list[Tensor]:
    """What the modules put out during the call."""
    seen: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _m, _i, out: seen.append(out)) for m in modules]
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("kind", ["gelu", "quickgelu"])
def test_blocks_are_those_of_plain_open_clip(kind: str) -> None:
    clip, backbone = tiny(kind)
    asked, pictures = classifier(kind, prompts=PROMPTS), images(backbone, 3)
    ids = backbone.text.tokenizer([f"a photo of a {n.replace('_', ' ')}." for n in NAMES])
    frozen_image = hooked(list(clip.visual.transformer.resblocks), lambda: clip.encode_image(pictures))
    frozen_text = hooked(list(clip.transformer.resblocks), lambda: clip.encode_text(ids))
    text_prompts, image_prompts = asked.model.prompt_tokens()
    with torch.no_grad():
        tuned_image = plain_states_image(clip, pictures, image_prompts)
        tuned_text = plain_states_text(clip, asked.model.classes.ids, text_prompts)
    rows = torch.arange(len(NAMES))
    found = measure(asked, [pictures], NAMES)
    pairs = [
        (found.image, tuned_image, [f[:, 0] for f in frozen_image]),
        (found.text, tuned_text, [f[rows, ids.argmax(-1)] for f in frozen_text]),
    ]
    for shifts, tuned, frozen in pairs:
        for shift, t, f in zip(shifts, tuned, frozen, strict=True):
            distance = (t - f).norm(dim=-1)
            assert shift.absolute.mean == pytest.approx(distance.mean().item(), abs=1e-5)
            assert shift.relative.mean == pytest.approx((distance / f.norm(dim=-1)).mean().item(), abs=1e-5)
            cosine = torch.cosine_similarity(t, f, dim=-1)
            assert shift.cosine.median == pytest.approx(cosine.quantile(0.5).item(), abs=1e-5)
    blocks = min(len(found.image), len(found.text))
    assert len(found.discrepancy) == blocks
    assert found.total_discrepancy == pytest.approx(
        sum((found.text[i].relative.mean - found.image[i].relative.mean) ** 2 for i in range(blocks))
    )


METHODS = {
    "clip": {},
    "prompts": {"prompts": PROMPTS},
    "conditional": {"prompts": {"towers": "text", "depth": 1, "conditional": True}},
    "lora": {"weights": {"lora": {}}},
    "finetune": {"weights": {"finetune": {}}},
    "surgery": {"surgery": {}},
    "adapter": {"heads": {"clip_adapter": {}}},
    "residual": {"heads": {"task_residual": {}}},
}


@pytest.mark.parametrize("kind", ["quickgelu", "siglip"])
@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_method_can_be_measured(name: str, kind: str) -> None:
    asked = classifier(kind, **METHODS[name])
    pictures = images(asked.model.backbone, 4)
    found = measure(asked, [pictures[:3], pictures[3:]], NAMES, labels=[0, 1, 2, 3])
    moved_inside = name in ("prompts", "conditional")  # LoRA starts from zero, weights are not yet trained
    assert (max(s.relative.mean for s in found.image + found.text) > 1e-4) == moved_inside
    assert (found.image_feature.cosine.mean < 1 - 1e-6 or found.text_feature.cosine.mean < 1 - 1e-6) == (
        name in ("prompts", "conditional", "surgery", "adapter")
    )
    assert found.before.matching is not None
    assert set(found.as_json()) >= {"image", "text", "total_discrepancy", "before", "after"}


def test_the_frozen_pass_is_shared_between_models() -> None:
    first, second = classifier(prompts=PROMPTS), classifier(surgery={})
    pictures = [images(first.model.backbone, 3)]
    frozen = frozen_embeddings(first.model, pictures, NAMES)
    for one in (first, second):
        assert measure(one, pictures, NAMES, frozen=frozen) == measure(one, pictures, NAMES)


def test_photos_are_measured_as_they_are_predicted(photos: Path) -> None:
    asked = classifier(prompts=PROMPTS)
    paths = sorted(photos.rglob("*.*"))[:3]
    batch = next(asked.batches(paths))
    assert measure(asked, paths, NAMES) == measure(asked, [batch], NAMES)


def test_nothing_to_measure_is_refused() -> None:
    asked = classifier()
    with pytest.raises(UserError, match="at least one of each"):
        measure(asked, [], NAMES)
    with pytest.raises(UserError, match="at least one of each"):
        measure(asked, [images(asked.model.backbone, 1)], [])
