"""Loading a frozen open_clip model by name, from a local folder, or the bundled tiny one."""

from __future__ import annotations

from dataclasses import asdict, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from restore_vlm.backbone.image_tower import ImageTower, open_image_tower
from restore_vlm.backbone.text_tower import TextTower, open_text_tower
from restore_vlm.errors import UserError, unknown
from restore_vlm.runtime.files import is_folder, parse_json, read_text

TINY = "tiny"
WITHOUT = "choose a method that leaves that tower alone, such as tip_adapter_f or linear_probe"
OPEN = {"text": "open_clip's own text transformer", "image": "a ViT as image tower"}


class Backbone(nn.Module):
    """A frozen CLIP-like model: two towers, a logit scale, its own preprocessing and tokenizer.

    Any model of open_clip will do. A tower of known blocks (:class:`ImageTower`, :class:`TextTower`) can be
    entered by the parts of a method, and computes only what is read; others are computed as
    open_clip does, and only a part that needs to enter them is refused.

    Args:
        model: A model built by open_clip.
        tokenizer: Its tokenizer.
        name: What it is called in runs and reports.
        preprocess: Its preprocessing: size, mean, std, interpolation, resize mode.
    """

    image: Any
    text: Any

    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None

    def __init__(self, model: Any, tokenizer: Any, name: str, preprocess: PreprocessCfg) -> None:
        super().__init__()
        model.eval().requires_grad_(False)
        self.image, self.text = open_image_tower(model.visual), open_text_tower(model, tokenizer)
        self.logit_scale = model.logit_scale
        self.logit_bias = getattr(model, "logit_bias", None)
        self.name, self.preprocess = name, preprocess

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    @property
    def dim(self) -> int:
        """Dimension of the shared embedding space."""
        return self.text.dim

    def entered(
        self, towers: Literal["text", "image", "both"], what: str, instead: str = WITHOUT
    ) -> list[ImageTower | TextTower]:
        """The towers whose blocks a part of a method needs.

        Args:
            towers: Which.
            what: What fails where there are none, as the beginning of a sentence: "Prompts cannot enter".
            instead: What to do, apart from taking another backbone.

        Raises:
            UserError: If one of them shows no blocks.
        """
        for name in ("text", "image") if towers == "both" else (towers,):
            tower = getattr(self, name)
            if tower.closed:
                raise UserError(
                    f"{what} the {name} tower of {self.name}, which {tower.closed}; {instead}, or take a "
                    f"backbone with {OPEN[name]}, such as ViT-B-16:openai."
                )
        return [self.text, self.image] if towers == "both" else [getattr(self, towers)]

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(b, d) and (c, d) unit features -> (b, c) logits, with the checkpoint's scale and bias.

        Text features of their own for every image are (b, c, d).
        """
        with torch.autocast(image_features.device.type, enabled=False):
            scaled = self.logit_scale.exp() * image_features
            if text_features.ndim == 3:
                logits = (text_features @ scaled[:, :, None])[..., 0]
            else:
                logits = scaled @ text_features.T
        return logits if self.logit_bias is None else logits + self.logit_bias

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: the backbone is frozen."""
        return super().train(False)


def load_backbone(name: str = TINY) -> Backbone:
    """Loads a backbone.

    Args:
        name: ``tiny`` (bundled), ``MODEL:PRETRAINED`` of open_clip (``ViT-B-16:openai``),
            ``hf-hub:OWNER/REPO``, or a local folder in open_clip's format (``open_clip_config.json``
            and ``*.safetensors``).

    Raises:
        UserError: If the name is unknown or the weights cannot be had.
    """
    if name == TINY:
        model, where = _create("local-dir:" + str(files("restore_vlm") / "assets" / "tiny-clip"))
    elif name.startswith("hf-hub:"):
        model, where = _create(name)
    elif is_folder(Path(name)):
        _check_folder(Path(name))
        model, where = _create(f"local-dir:{name}")
    else:
        model, where = _create_by_tag(name)
    keep = {f.name for f in fields(PreprocessCfg)}
    config = {k: v for k, v in open_clip.get_model_preprocess_cfg(model).items() if k in keep}
    preprocess = PreprocessCfg(**{**asdict(PreprocessCfg()), **config})
    return Backbone(model, _tokenizer(where), name, preprocess)


def _check_folder(folder: Path) -> None:
    config = folder / "open_clip_config.json"
    if not config.is_file() or not list(folder.glob("*.safetensors")):
        raise UserError(
            f"The folder {folder} is not an open_clip model; it needs open_clip_config.json and a "
            ".safetensors file."
        )
    try:
        parse_json(read_text(config))["model_cfg"]
    except (UserError, ValueError, KeyError, TypeError):
        raise UserError(f"{config} is not an open_clip configuration: no 'model_cfg' in it.") from None


def _create(where: str, **options: Any) -> tuple[nn.Module, str]:
    try:
        return open_clip.create_model(where, precision="fp32", require_pretrained=True, **options), where
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The backbone {where.removeprefix('local-dir:')!r} could not be loaded ({reason}); check the "
            "name, the files and, for hub models, the network."
        ) from error


def _create_by_tag(name: str) -> tuple[nn.Module, str]:
    architecture, _, tag = name.partition(":")
    if architecture not in open_clip.list_models():
        raise unknown("backbone", architecture, [TINY, *open_clip.list_models()])
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        if not tags:
            raise UserError(f"open_clip has no weights for {architecture}; choose another architecture.")
        if not tag:
            raise UserError(
                f"Say which weights of {architecture}: {architecture}:TAG, TAG one of {', '.join(tags)}."
            )
        raise unknown(f"weights of {architecture}", tag, tags)
    quick = bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu"))
    return _create(architecture, pretrained=tag, force_quick_gelu=quick)


def _tokenizer(where: str) -> Any:
    try:
        return open_clip.get_tokenizer(where)
    except Exception as error:
        raise UserError(f"The tokenizer of {where!r} could not be loaded ({error}).") from error


def pick_device(name: str | None = None) -> torch.device:
    """The device asked for, or the best there is: cuda, mps, cpu.

    Raises:
        UserError: If the device asked for is not there.
    """
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    available = [kind for kind, count in counts.items() if count]
    if name is None:
        return torch.device(available[0])
    kind, _, index = name.partition(":")
    if kind not in available or (index and not (index.isdigit() and int(index) < counts[kind])):
        raise UserError(f"There is no device {name!r} here; use one of {', '.join(available)}.")
    return torch.device(name)
