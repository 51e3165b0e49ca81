"""Loading a backbone: what works is read as the checkpoint says, what does not is one clear sentence."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import oracle
from backbone.tiny_models import CLOSED, CONFIGS, SIGLIP, TEXT, build, images, tiny, wrap, write_folder
from restore_vlm.backbone import Backbone, load_backbone, pick_device
from restore_vlm.errors import UserError
from restore_vlm.method import MethodConfig, PromptedModel

PREPROCESS = {
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
SMALL: dict[str, Any] = CONFIGS["gelu"] | {"text_cfg": TEXT | {"context_length": 20}}


def sentence(error: pytest.ExceptionInfo) -> str:
    """The message, checked to be one line that ends."""
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


@pytest.mark.parametrize("config", [SMALL, CONFIGS["timm"], SIGLIP], ids=["clip", "timm", "siglip"])
def test_local_folder(tmp_path: Path, config: dict) -> None:
    model = write_folder(tmp_path, config, PREPROCESS)
    backbone = load_backbone(str(tmp_path))
    assert backbone.name == str(tmp_path)
    read = backbone.preprocess
    assert (list(read.mean), list(read.std)) == (PREPROCESS["mean"], PREPROCESS["std"])
    assert (read.interpolation, read.resize_mode) == ("bilinear", "squash")
    assert read.size in (32, (32, 32), [32, 32])
    limit = config["text_cfg"]["context_length"]
    ids = backbone.text.tokenizer(["a cat", "a dog"])
    assert ids.shape == (2, limit)
    assert backbone.dim == config["embed_dim"]
    pictures = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        logits = PromptedModel(backbone, MethodConfig(name="clip", template="a {}"), ["cat", "dog"])(pictures)
        wanted = model.eval().get_logits(pictures, ids)[0]
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["resnet", "convnext", "coca"])
def test_local_folder_of_a_closed_tower(tmp_path: Path, kind: str) -> None:
    model = write_folder(tmp_path, CLOSED[kind]).eval()
    backbone = load_backbone(str(tmp_path))
    assert backbone.image.closed or backbone.text.closed
    assert (backbone.text.depth == 0) == (kind == "coca")
    ids, pictures = backbone.text.tokenizer(["a cat", "a dog"]), images(backbone)
    with torch.no_grad():
        logits = PromptedModel(backbone, MethodConfig(name="clip", template="a {}"), ["cat", "dog"])(pictures)
        unit = model.encode_image(pictures, normalize=True), model.encode_text(ids, normalize=True)
        wanted = model.logit_scale.exp() * unit[0] @ unit[1].T
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)


def test_hugging_face_text_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip.hf_model, "transformers", None)
    write_folder(tmp_path, SIGLIP)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        load_backbone(str(tmp_path))
    assert "pip install transformers" in sentence(error)


def test_quick_gelu_is_read_from_the_config(tmp_path: Path) -> None:
    model = write_folder(tmp_path, SMALL | {"quick_gelu": True})
    backbone = load_backbone(str(tmp_path))
    assert type(model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert backbone.image.blocks[0].mlp_in.gain == 1.702


def test_checkpoint_scale_and_bias() -> None:
    clip, backbone = tiny("siglip")
    image, text = F.normalize(torch.randn(2, 48), dim=-1), F.normalize(torch.randn(3, 48), dim=-1)
    wanted = clip.logit_scale.exp() * image @ text.T - 10
    torch.testing.assert_close(backbone.logits(image, text), wanted)
    assert tiny("gelu")[1].logit_bias is None


def test_logits_are_float32_under_autocast() -> None:
    _, backbone = tiny("gelu")
    image, text = F.normalize(torch.randn(2, 40), dim=-1), F.normalize(torch.randn(3, 40), dim=-1)
    exact = backbone.logits(image, text)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(backbone.logits(image, text), exact)


@pytest.mark.parametrize("kind", ["gelu", "timm", "siglip"])
def test_stays_frozen_and_in_evaluation_mode(kind: str) -> None:
    _, backbone = tiny(kind)
    model = PromptedModel(backbone, MethodConfig(name="test", prompts={}, surgery={}), ["cat"])
    for part in (model.train(), backbone.train(), backbone.train(True)):
        assert part is model or part is backbone
        assert not any(module.training for module in backbone.modules())
        assert not any(p.requires_grad for p in backbone.parameters())
    assert all(not name.startswith("backbone.") for name in model.trainable())


def test_dropout_of_a_tower_never_acts() -> None:
    """Patch dropout and stochastic depth belong to training the backbone, not to us."""
    config = CONFIGS["timm"] | {
        "vision_cfg": CONFIGS["timm"]["vision_cfg"] | {"timm_drop_path": 0.5, "patch_dropout": 0.5}
    }
    clip = build(**config)
    backbone = wrap(clip)
    backbone.train()
    pictures = images(backbone)
    torch.testing.assert_close(backbone.image(pictures)[0], oracle.plain_image(clip.eval(), pictures))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ViT-B-61:openai", ["ViT-B-61", "did you mean 'ViT-B-16'?"]),
        ("tinny", ["tinny", "did you mean 'tiny'?"]),
        ("zzzzzzzzzzzzzz:openai", ["zzzzzzzzzzzzzz", "known: tiny"]),
        ("no/such/folder", ["no/such/folder"]),
        ("ViT-B-16", ["which weights of ViT-B-16", "ViT-B-16:TAG", "openai"]),
        ("ViT-B-16:", ["which weights of ViT-B-16", "openai"]),
        ("ViT-B-16:opnai", ["weights of ViT-B-16", "'opnai'", "did you mean 'openai'?"]),
    ],
)
def test_unknown_names(name: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_backbone(name)
    message = sentence(error)
    assert all(part in message for part in parts), message


def no_config(folder: Path) -> None:
    (folder / "open_clip_config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()


def broken_json(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text('{"model_cfg": ')


def no_model_cfg(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text('{"preprocess_cfg": {}}')


def json_list(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text("[1, 2]")


def not_text(folder: Path) -> None:
    (folder / "open_clip_config.json").write_bytes(b"\xff\xfe\x00\x80")


def half_a_config(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 32, "vision_cfg": {}}}')


def broken_weights(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").write_bytes(b"not safetensors")


def other_weights(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / "open_clip_model.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        no_config,
        no_weights,
        broken_json,
        no_model_cfg,
        json_list,
        not_text,
        half_a_config,
        broken_weights,
        other_weights,
    ],
)
def test_damaged_folder(tmp_path: Path, damage: Any) -> None:
    write_folder(tmp_path, SMALL)
    damage(tmp_path)
    with pytest.raises(UserError) as error:
        load_backbone(str(tmp_path))
    assert str(tmp_path) in sentence(error)


def test_hub_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        load_backbone("hf-hub:nobody/no-such-clip")
    message = sentence(error)
    assert "hf-hub:nobody/no-such-clip" in message
    assert "network" in message


def test_hub_weights_that_cannot_be_had_are_not_random(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """open_clip only logs it and goes on with a random model."""
    write_folder(tmp_path, SMALL)

    def download(model_id: str, filename: str | None = None, **_: Any) -> str:
        if filename == "open_clip_config.json":
            return str(tmp_path / filename)
        raise FileNotFoundError("the connection broke")

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", download)
    with pytest.raises(UserError) as error:
        load_backbone("hf-hub:somebody/some-clip")
    sentence(error)


@pytest.mark.parametrize("prompts", [None, {"length": 2}, {"length": 16}])
def test_longest_class_name(prompts: dict | None) -> None:
    """The template takes 4 words and ".", the two ends 2, placeholders what they are; without
    placeholders one token is left free, for a tokenizer that cuts does not tell full from too long."""
    _, backbone = tiny("gelu")
    config = MethodConfig(name="test", prompts=prompts)
    room = 77 - 3 - 16 if prompts == {"length": 16} else 77 - 4 - 4
    fits, too_long = (" ".join(["cat"] * n) for n in (room, room + 1))
    model = PromptedModel(backbone, config, ["cat", fits])
    assert len(model.classes) == 2
    with pytest.raises(UserError) as error:
        model.set_classes(["cat", too_long])
    message = sentence(error)
    assert too_long in message
    assert "77 tokens" in message


def test_too_long_for_a_bidirectional_tower() -> None:
    _, backbone = tiny("siglip")
    with pytest.raises(UserError, match="shorten the class name"):
        PromptedModel(backbone, MethodConfig(name="test"), ["cat", "cat " * 100])


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:x", "cpu:x", "cpu:1", "mps", "tpu", ""])
def test_missing_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError) as error:
        pick_device(name)
    assert repr(name) in sentence(error)
    assert "cpu" in str(error.value)


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_best_device(cuda: bool, mps: bool, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device() == torch.device(best)
    assert pick_device("cpu") == torch.device("cpu")


def test_backbone_is_a_module_of_its_towers() -> None:
    _, backbone = tiny("quickgelu")
    assert isinstance(backbone, Backbone)
    assert (backbone.text.depth, backbone.image.depth) == (2, 4)
    assert (backbone.text.width, backbone.image.width, backbone.dim) == (32, 48, 24)
