"""Tiny random models of every kind the towers know, for the tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from restore_vlm.backbone import Backbone

TOKENIZER = open_clip.get_tokenizer("ViT-B-16")
TOKENIZERS = {
    "siglip": open_clip.SimpleTokenizer(context_length=24),
    "coca": open_clip.SimpleTokenizer(context_length=40),
}


def _timm(pretrained: bool = False, **options: Any) -> VisionTransformer:
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(name, None)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
    trunk = VisionTransformer(**sizes | options)
    trunk.default_cfg = {}
    return trunk


@register_model
def tiny_timm_token(pretrained: bool = False, **options: Any) -> VisionTransformer:
    return _timm(**options)


@register_model
def tiny_timm_extras(pretrained: bool = False, **options: Any) -> VisionTransformer:
    extras = {"reg_tokens": 2, "qk_norm": True, "init_values": 0.5, "pre_norm": True, "no_embed_class": True}
    return _timm(**extras | {"scale_attn_norm": True, "scale_mlp_norm": True} | options)


@register_model
def tiny_timm_map(pretrained: bool = False, **options: Any) -> VisionTransformer:
    return _timm(**{"class_token": False, "global_pool": "map"} | options)


VISION = {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 3}
TEXT = {"context_length": 77, "width": 32, "heads": 4, "layers": 3}
SIGLIP = {
    "embed_dim": 48,
    "vision_cfg": {
        "timm_model_name": "tiny_timm_map",
        "image_size": 32,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": TEXT
    | {"context_length": 24, "no_causal_mask": True, "pool_type": "last", "proj_bias": True, "eos_id": 49407},
    "init_logit_bias": -10,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gelu": {"embed_dim": 40, "vision_cfg": VISION, "text_cfg": TEXT},
    # More image tokens than plain attention is used for, and towers of unequal depth.
    "quickgelu": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": VISION | {"image_size": 64, "layers": 4},
        "text_cfg": TEXT | {"layers": 2},
    },
    "layerscale": {
        "embed_dim": 40,
        "vision_cfg": VISION | {"ls_init_value": 0.5, "pool_type": "avg", "no_ln_pre": True},
        "text_cfg": TEXT | {"ls_init_value": 0.5, "pool_type": "eos", "eos_id": 49407, "proj_bias": True},
    },
    "timm": {
        "embed_dim": 40,
        "vision_cfg": {"timm_model_name": "tiny_timm_token", "image_size": 32, "timm_pool": "token"},
        "text_cfg": TEXT,
    },
    "timm_extras": {
        "embed_dim": 40,
        "vision_cfg": {"timm_model_name": "tiny_timm_extras", "image_size": 32, "timm_pool": "token"},
        "text_cfg": TEXT,
    },
    "siglip": SIGLIP,
}
RESNET = {"layers": (1, 1, 1, 1), "width": 8, "head_width": 64, "image_size": 64}
QK_NORM = {"embed_dim": 24, "vision_cfg": VISION | {"qk_norm": True}, "text_cfg": TEXT | {"qk_norm": True}}
COCA = {
    "embed_dim": 40,
    "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
    "text_cfg": TEXT | {"context_length": 40, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"width": 32, "context_length": 40, "heads": 4, "layers": 1},
}
CLOSED: dict[str, dict[str, Any]] = {
    "resnet": {"embed_dim": 32, "vision_cfg": RESNET, "text_cfg": TEXT},
    "convnext": {
        "embed_dim": 40,
        "vision_cfg": {
            "timm_model_name": "test_convnext",
            "image_size": 64,
            "timm_pool": "",
            "timm_proj": "linear",
        },
        "text_cfg": TEXT,
    },
    "timm_resnet": {
        "embed_dim": 40,
        "vision_cfg": {"timm_model_name": "test_resnet", "image_size": 64, "timm_pool": "avg"},
        "text_cfg": TEXT,
    },
    "qk_norm": QK_NORM,
    "coca": COCA,
}
"""Models of which one tower or both show no blocks."""


def build(**config: Any) -> nn.Module:
    """A model of open_clip with random weights, biases and norms included."""
    kind: Any = open_clip.CustomTextCLIP if config["text_cfg"].get("no_causal_mask") else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = (open_clip.CoCa if "multimodal_cfg" in config else kind)(**config)
    random = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "logit" in name:
            continue
        noise = torch.randn(parameter.shape, generator=random)
        if parameter.ndim < 2:
            parameter.data += 0.1 * noise
        else:
            embedding = "embed" in name and "proj" not in name
            parameter.data = noise * (0.3 if embedding else parameter[0].numel() ** -0.5)
    return model


def write_folder(folder: Path, config: dict[str, Any], preprocess: dict[str, Any] | None = None) -> nn.Module:
    """Writes a random model in open_clip's format and returns it."""
    model = build(**config)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    custom = {} if isinstance(model, open_clip.CLIP) else {"custom_text": True}
    document = {"model_cfg": config | custom, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return model


def wrap(model: nn.Module, tokenizer: Any = TOKENIZER) -> Backbone:
    size = model.visual.image_size
    return Backbone(model, tokenizer, "test", PreprocessCfg(size=size if isinstance(size, int) else size[0]))


def tiny(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Backbone]:
    """The open_clip model of a kind and the backbone made of it; they share their weights."""
    return _tiny(kind, dtype)


@cache
def _tiny(kind: str, dtype: torch.dtype) -> tuple[nn.Module, Backbone]:
    model = build(**(CONFIGS | CLOSED)[kind]).to(dtype)
    return model, wrap(model, TOKENIZERS.get(kind, TOKENIZER))


def images(backbone: Backbone, count: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    size = backbone.preprocess.size
    height, width = (size, size) if isinstance(size, int) else size
    random = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, height, width, generator=random, dtype=torch.float64).to(dtype)
