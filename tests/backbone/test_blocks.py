"""What can be built on the blocks of a tower: runs between any two, tokens put in between, adapters beside
one; all against open_clip's own modules."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oracle
from backbone.tiny_models import CONFIGS, build, images, tiny, wrap
from restore_vlm.backbone.class_prompts import Context

NAMES = ["tabby cat", "dog", "Boeing 737-800", "forget-me-not", "tabby cat"]
EXACT: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-9}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, **EXACT)


def image_blocks(clip: nn.Module) -> Any:
    trunk = getattr(clip.visual, "trunk", None)
    return clip.visual.transformer.resblocks if trunk is None else trunk.blocks


@pytest.mark.parametrize("kind", CONFIGS)
def test_runs_from_any_block_to_any_other(kind: str) -> None:
    _, backbone = tiny(kind, torch.float64)
    pictures, tower = images(backbone, dtype=torch.float64), backbone.image
    whole, states = tower(pictures, states=True)
    for stop in range(tower.depth + 1):
        lower = tower.run(tower.embed(pictures), stop=stop)
        if stop:
            tokens = lower.shape[1]
            close(tower.state(lower, tokens), states[stop - 1])
        close(tower.read_out(tower.run(lower, start=stop)), whole)
        few = tower.run(lower, stop, read=torch.tensor([0, 3])) if stop < tower.depth else None
        if few is not None:
            close(few, tower.run(lower, stop)[:, [0, 3]])
    tower = backbone.text
    for classes in (
        tower.tokenize([f"a photo of a {name}." for name in NAMES]),
        tower.tokenize_names(NAMES, Context(2, "a photo of a")),
    ):
        whole, states = tower(classes, states=True)
        for stop in range(tower.depth + 1):
            lower = tower.run(tower.embed(classes), classes, stop=stop)
            if 0 < stop < tower.depth:
                close(tower.at_ends(lower, classes)[0], states[stop - 1])
            close(tower.read_out(tower.run(lower, classes, start=stop))[0], whole)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("kind", ["gelu", "timm_extras", "siglip"])
def test_tokens_between_blocks_of_the_image_tower(kind: str, at: int) -> None:
    """Put in behind the first token before block ``at``, renewed before every later one (as MMRL, arXiv
    2503.08497)."""
    clip, backbone = tiny(kind, torch.float64)
    tower, pictures = backbone.image, images(backbone, dtype=torch.float64)
    new = torch.randn(tower.depth, 2, tower.width, dtype=torch.float64)
    x = y = tower.embed(pictures)
    for layer, block in enumerate(image_blocks(clip)):
        over = 1 + 2 * (layer > at)
        if layer >= at:
            x, y = (
                torch.cat([z[:, :1], new[layer].expand(len(z), -1, -1), z[:, over:]], dim=1) for z in (x, y)
            )
        x, y = tower.run(x, layer, layer + 1), block(y)
    close(x, y)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("kind", ["gelu", "layerscale", "siglip"])
def test_tokens_between_blocks_of_the_text_tower(kind: str, at: int) -> None:
    """Likewise, behind the start token; end-of-text moves up by their number."""
    clip, backbone = tiny(kind, torch.float64)
    tower, text = backbone.text, getattr(clip, "text", clip)
    classes = tower.tokenize([f"a photo of a {name}." for name in NAMES])
    new = torch.randn(tower.depth, 2, tower.width, dtype=torch.float64)
    x, start = tower.embed(classes), tower.start
    y = text.token_embedding(classes.ids) + text.positional_embedding[: classes.ids.shape[1]]
    for layer, block in enumerate(text.transformer.resblocks):
        if layer >= at:
            over = 2 * (layer > at)
            x = tower.insert(x, classes, new[layer], over)
            tokens = new[layer].expand(len(y), -1, -1)
            y = torch.cat([y[:, :start], tokens, y[:, start + over :]], dim=1)
        mask = torch.full(2 * y.shape[1:2], -torch.inf, dtype=y.dtype).triu(1) if tower.causal else None
        x, y = tower.run(x, classes, layer, layer + 1), block(y, attn_mask=mask)
        if layer < tower.depth - 1:
            ends = classes.ids.argmax(-1) if tower.causal else torch.tensor(classes.ids.shape[1] - 1)
            close(tower.at_ends(x, classes)[0], y[torch.arange(len(y)), ends + 2 * (layer >= at)])
    close(x[0], y[torch.arange(len(y)), ends + 2])


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_beside_a_block(kind: str) -> None:
    """The block's output and the adapter's of its normalised input, where only a token is read too."""
    clip = build(**CONFIGS[kind]).double()
    backbone = wrap(clip, tiny(kind)[1].text.tokenizer)
    pictures = images(backbone, dtype=torch.float64)
    asked = [f"a photo of a {name}." for name in NAMES]
    classes = backbone.text.tokenize(asked)
    bare = backbone.image(pictures)[0], backbone.text(classes)[0]
    text_blocks = getattr(clip, "text", clip).transformer.resblocks
    for tower, originals in ((backbone.image, image_blocks(clip)), (backbone.text, text_blocks)):
        for layer in {1, tower.depth - 1}:
            adapter = nn.Sequential(nn.Linear(tower.width, 3), nn.ReLU(), nn.Linear(3, tower.width)).double()
            tower.blocks[layer].adapter = adapter

            def beside(block: Any, args: Any, out: Tensor, adapter: nn.Module = adapter) -> Tensor:
                norm = block.ln_1 if hasattr(block, "ln_1") else block.norm1
                return out + adapter(norm(args[0]))

            originals[layer].register_forward_hook(beside)
    ours = backbone.image(pictures)[0], backbone.text(classes)[0]
    ids = backbone.text.tokenizer(asked)
    for found, wanted, before in zip(
        ours, (oracle.plain_image(clip, pictures), oracle.plain_text(clip, ids)), bare, strict=True
    ):
        close(found, wanted)
        assert not torch.allclose(found, before)
