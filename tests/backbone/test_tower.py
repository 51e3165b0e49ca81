"""Towers that show no blocks: computed as open_clip does, refused only where a part must enter them."""

import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbone.tiny_models import CLOSED, SIGLIP, TEXT, VISION, build, images, tiny, wrap
from restore_vlm.errors import UserError
from restore_vlm.method import MethodConfig, PromptedModel, load_recipe

NAMES = ["tabby cat", "dog", "Boeing 737-800", "forget-me-not"]
ENTERING = {
    "vpt": "Prompts cannot enter the image tower",
    "ivlp": "Prompts cannot enter the image tower",
    "restore": "Prompts cannot enter the image tower",
    "promptsrc": "Prompts cannot enter the image tower",
    "clip_lora": "LoRA cannot enter the image tower",
}
OUTSIDE = ("clip", "clip_ensemble", "linear_probe", "tip_adapter", "tip_adapter_f", "clip_adapter", "taskres")


@pytest.mark.parametrize("kind", CLOSED)
def test_features_are_those_of_open_clip(kind: str) -> None:
    clip, backbone = tiny(kind)
    assert backbone.image.closed or backbone.text.closed
    assert backbone.dim == CLOSED[kind]["embed_dim"]
    pictures = images(backbone, 3)
    model = PromptedModel(backbone, MethodConfig(name="clip"), NAMES)
    ids = backbone.text.tokenizer([f"a photo of a {name}." for name in NAMES])
    with torch.no_grad():
        out = model.encode(pictures)
        text, image = clip.encode_text(ids, normalize=True), clip.encode_image(pictures, normalize=True)
        torch.testing.assert_close(out.text_features, text, atol=1e-5, rtol=0)
        torch.testing.assert_close(out.image_features, image, atol=1e-5, rtol=0)
        logits = clip.logit_scale.exp() * image @ text.T
        torch.testing.assert_close(out.logits, logits, atol=1e-3, rtol=0)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.cosine_similarity(model.encode(pictures).image_features, image).min() > 0.99


def test_many_classes_are_encoded_in_parts() -> None:
    _, backbone = tiny("coca")
    names = [f"bird number {i}" for i in range(300)]
    together = PromptedModel(backbone, MethodConfig(name="clip"), names).encode_text()[0]
    alone = PromptedModel(backbone, MethodConfig(name="clip"), names[290:]).encode_text()[0]
    torch.testing.assert_close(together[290:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["coca", "qk_norm"])
def test_too_long_for_a_text_tower_without_blocks(kind: str) -> None:
    with pytest.raises(UserError, match="shorten the class name"):
        PromptedModel(tiny(kind)[1], MethodConfig(name="clip"), ["cat", "cat " * 100])


@pytest.mark.parametrize("method", ENTERING)
@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_what_must_enter_an_image_tower_is_refused(kind: str, method: str) -> None:
    with pytest.raises(UserError) as error:
        PromptedModel(tiny(kind)[1], load_recipe(method), NAMES)
    message, tower = str(error.value), {"resnet": "ModifiedResNet", "convnext": "ConvNeXt"}[kind]
    assert message == (
        f"{ENTERING[method]} of test, which is a {tower}; choose a method that leaves that tower alone, such "
        "as tip_adapter_f or linear_probe, or take a backbone with a ViT as image tower, such as "
        "ViT-B-16:openai."
    )


@pytest.mark.parametrize("method", ["coop", "cocoop", "kgcoop", "prograd", *OUTSIDE, "wise_ft"])
@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_what_stays_outside_works_on_any_image_tower(kind: str, method: str) -> None:
    _, backbone = tiny(kind)
    before = copy.deepcopy(backbone.state_dict())
    model = PromptedModel(backbone, load_recipe(method), NAMES)
    model.train()
    logits = model(images(backbone))
    assert logits.shape == (2, 4)
    if model.trainable() and method != "tip_adapter_f":  # its keys come with the photos
        learned = torch.autograd.grad(logits.square().sum(), list(model.trainable().values()))
        assert any(g.any() for g in learned)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "why"),
    [("coca", "is a TextTransformer with a class token"), ("qk_norm", "is built of CustomResidualAttention")],
)
def test_what_must_enter_a_text_tower_is_refused(kind: str, why: str) -> None:
    for method, part in (("coop", "Prompts"), ("maple", "Prompts"), ("clip_lora", "LoRA")):
        with pytest.raises(UserError) as error:
            PromptedModel(tiny(kind)[1], load_recipe(method), NAMES)
        assert str(error.value).startswith(f"{part} cannot enter the text tower of test, which {why}")
        assert "with open_clip's own text transformer, such as ViT-B-16:openai." in str(error.value)


@pytest.mark.parametrize("method", ["vpt", *OUTSIDE, "wise_ft"])
def test_what_leaves_the_text_alone_works_on_any_text_tower(method: str) -> None:
    _, backbone = tiny("coca")
    assert backbone.text.closed
    model, pictures = PromptedModel(backbone, load_recipe(method), NAMES), images(backbone)
    logits = model(pictures)
    if model.trainable() and method != "tip_adapter_f":  # its keys come with the photos
        logits.square().sum().backward()
        assert any(p.grad is not None and p.grad.any() for p in model.trainable().values())


def test_text_and_image_of_a_closed_tower_are_fine_tuned_apart() -> None:
    """Only the tower's own weights are learned, and in full precision."""
    clip, backbone = tiny("coca")
    config = MethodConfig(name="test", weights={"finetune": {"towers": "text"}})
    model = PromptedModel(backbone, config, NAMES)
    learned = model.trainable()
    assert sum(p.numel() for p in learned.values()) == sum(p.numel() for p in clip.text.parameters())
    model(images(backbone)).square().sum().backward()
    assert all(p.grad is not None for p in learned.values())
    assert not any(p.requires_grad for p in clip.parameters())


def test_norms_of_a_fine_tuned_resnet_keep_their_statistics() -> None:
    _, backbone = tiny("resnet")
    model = PromptedModel(backbone, MethodConfig(name="test", weights={"finetune": {}}), NAMES)
    seen = {n: b.clone() for n, b in model.named_buffers() if "running" in n}
    assert seen
    model.train()
    model(images(backbone)).square().sum().backward()
    assert all(torch.equal(b, seen[n]) for n, b in model.named_buffers() if n in seen)


class HFTextEncoder(nn.Module):
    """Stands for open_clip's adapter of Hugging Face's models: no blocks, no projection, ids in, features
    out."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer, self.proj = nn.EmbeddingBag(49408, 8), nn.Linear(8, 48)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.proj(self.transformer(ids))


def test_an_adapter_of_another_text_model() -> None:
    clip = build(**SIGLIP)
    clip.text = HFTextEncoder()
    backbone = wrap(clip, tiny("siglip")[1].text.tokenizer)
    assert (backbone.text.closed, backbone.dim) == ("is a HFTextEncoder", 48)
    with torch.no_grad():
        features = PromptedModel(backbone, MethodConfig(name="clip", template="{}"), ["cat", "dog"])
        wanted = clip.encode_text(backbone.text.tokenizer(["cat", "dog"]), normalize=True)
        torch.testing.assert_close(features.encode_text()[0], wanted)


def test_a_real_adapter_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    from open_clip.hf_model import HFTextEncoder

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    clip = build(**SIGLIP)
    config = transformers.RobertaConfig(vocab_size=49408, pad_token_id=0, **sizes)
    clip.text = HFTextEncoder("", 48, config, "mean_pooler", "mlp")
    backbone = wrap(clip.eval(), tiny("siglip")[1].text.tokenizer)
    with torch.no_grad():
        features = PromptedModel(backbone, MethodConfig(name="clip", template="{}"), ["cat", "dog"])
        wanted = clip.encode_text(backbone.text.tokenizer(["cat", "dog"]), normalize=True)
        torch.testing.assert_close(features.encode_text()[0], wanted)
    tuned = PromptedModel(
        backbone, MethodConfig(name="test", weights={"finetune": {"towers": "both"}}), ["cat"]
    )
    tuned(images(backbone)).square().sum().backward()
    with pytest.raises(UserError, match="text tower of test, which is a HFTextEncoder;"):
        PromptedModel(backbone, load_recipe("coop"), NAMES)


@pytest.mark.parametrize("option", [{"qk_norm": True}, {"scale_fc": True}])
@pytest.mark.parametrize("tower", ["vision_cfg", "text_cfg"])
def test_blocks_of_another_kind_close_their_tower_alone(tower: str, option: dict) -> None:
    config = {"vision_cfg": VISION, "text_cfg": TEXT}
    config[tower] = config[tower] | option
    backbone = wrap(open_clip.CLIP(embed_dim=32, **config))
    closed, other = (backbone.image, backbone.text)[:: 1 if tower == "vision_cfg" else -1]
    assert closed.closed == "is built of CustomResidualAttentionBlocks"
    assert (closed.depth, other.closed, other.depth) == (0, "", 3)


def test_a_mask_of_padding_closes_a_text_tower() -> None:
    clip = build(**SIGLIP)
    clip.text.use_pad_mask = True
    assert wrap(clip, tiny("siglip")[1].text.tokenizer).text.closed == (
        "pools by 'last' under a mask of padding"
    )
