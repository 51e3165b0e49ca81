"""The plain path: what the fast towers must equal, computed without any of their shortcuts.

It drives open_clip's own modules: every block is called as the module it is, on every token of
the tokenizer's whole context and every class, under the model's full mask; prompts are
concatenated and replaced as the published code does (MaPLe, arXiv 2210.03117; RESTORE,
arXiv 2403.06136). Nothing of ``restore_vlm`` is imported, so tests compare two implementations
and benchmarks have the straightforward one to beat. Works under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import text_global_pool
from torch import Tensor, nn


def plain_text(model: nn.Module, ids: Tensor, prompts: Sequence[Tensor] = (), start: int = 1) -> Tensor:
    """Text features along the plain path.

    Args:
        model: An open_clip model: ``CLIP`` or ``CustomTextCLIP``.
        ids: (c, t) token ids, placeholders included where the context is not made of words.
        prompts: For layers 0, 1, ...: (n, width) learned tokens.
        start: Tokens before the context: 1 where the tokenizer writes a start token, else 0.

    Returns:
        (c, d) unnormalised features.
    """
    text = _text(model)
    return _text_head(text, _text_blocks(text, ids, prompts, start)[-1], ids)


def plain_states_text(
    model: nn.Module, ids: Tensor, prompts: Sequence[Tensor] = (), start: int = 1
) -> list[Tensor]:
    """Per block, the (c, width) embedding at the token the tower is read at (end-of-text)."""
    text = _text(model)
    return [_read(text, x, ids) for x in _text_blocks(text, ids, prompts, start)]


def plain_image(model: nn.Module, images: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
    """Image features along the plain path.

    Args:
        model: An open_clip model whose image tower is open_clip's own ViT or timm's.
        images: (b, 3, h, w), normalised.
        prompts: For layers 0, 1, ...: (n, width) learned tokens.

    Returns:
        (b, d) unnormalised features.
    """
    states, tokens = _image_blocks(_visual(model), images, prompts)
    return _image_head(_visual(model), states[-1][:, :tokens])


def plain_states_image(model: nn.Module, images: Tensor, prompts: Sequence[Tensor] = ()) -> list[Tensor]:
    """Per block, the (b, width) class token; in a tower without one, the mean of the patch tokens."""
    visual = _visual(model)
    states, tokens = _image_blocks(visual, images, prompts)
    if hasattr(visual, "trunk") and visual.trunk.num_prefix_tokens == 0:
        return [x[:, :tokens].mean(dim=1) for x in states]
    return [x[:, 0] for x in states]


def plain_names(model: nn.Module, prompted: Any, context: Tensor) -> Tensor:
    """Text features with the class name anywhere among the context, as CoOp's published code.

    The classes are tokenised as "X X .. X name.", or in the words the context starts from; the
    embeddings are cut at the name, whose length is that of the name alone, and put together in
    another order; end-of-text stays where it was (arXiv 2109.01134). Deeper prompts replace what
    stands at the context's places.

    Args:
        model: The open_clip model its backbone was made of.
        prompted: A ``PromptedModel`` with text prompts.
        context: (n, width), or (c, n, width) for a context per class.

    Returns:
        (c, d) unnormalised features.
    """
    text, prompts, config = _text(model), prompted.prompt_tokens()[0], prompted.config.prompts
    tokenizer, n = prompted.backbone.text.tokenizer, config.length
    names = [name.replace("_", " ") for name in prompted.classnames]
    words = config.init if len(config.init.split()) >= n else " ".join(["X"] * n)
    ids = tokenizer([f"{words} {name}." for name in names])
    template, lengths = len(tokenizer.encode(words)), [len(tokenizer.encode(name)) for name in names]
    position, states = config.class_position, text.token_embedding(ids)
    rows = [
        _ordered(position, n, row[:1], own, row[1 + n : 1 + template], row[1 + template :], length)
        for row, own, length in zip(states, context.expand(len(ids), -1, -1), lengths, strict=True)
    ]
    x = torch.stack(rows) + text.positional_embedding[: ids.shape[1]]
    mask = text.attn_mask
    for layer, block in enumerate(text.transformer.resblocks):
        if 0 < layer < len(prompts):
            x = torch.stack(
                [_replaced(position, r, prompts[layer], k) for r, k in zip(x, lengths, strict=True)]
            )
        x = block(x, attn_mask=mask)
    return _text_head(text, x, ids)


def _ordered(
    position: str, n: int, start: Tensor, context: Tensor, words: Tensor, rest: Tensor, length: int
) -> Tensor:
    name, tail = rest[:length], rest[length:]
    parts = {
        "end": [start, context, words, name, tail],
        "middle": [start, context[: n // 2], name, context[n // 2 :], words, tail],
        "front": [start, name, context, words, tail],
    }
    return torch.cat(parts[position])


def _replaced(position: str, x: Tensor, prompt: Tensor, length: int) -> Tensor:
    n = len(prompt)
    half = n // 2
    if position == "end":
        return torch.cat([x[:1], prompt, x[1 + n :]])
    if position == "front":
        return torch.cat([x[: 1 + length], prompt, x[1 + length + n :]])
    name = x[1 + half : 1 + half + length]
    return torch.cat([x[:1], prompt[:half], name, prompt[half:], x[1 + n + length :]])


def plain_logits(model: nn.Module, prompted: Any, images: Tensor) -> Tensor:
    """Logits of a ``PromptedModel`` along the plain path.

    Args:
        model: The open_clip model its backbone was made of.
        prompted: Gives the learned parts (prompts, surgery blocks) and its classes' token ids.
        images: (b, 3, h, w), normalised.

    Returns:
        (b, c) logits; differentiable in every learned tensor of ``prompted``.
    """
    text_prompts, image_prompts = prompted.prompt_tokens()
    image = _unit(plain_image(model, images, image_prompts), prompted.image_surgery)
    scale, bias = model.logit_scale, getattr(model, "logit_bias", None)
    config = prompted.config.prompts
    if config is not None and config.conditional:
        text = _conditional(model, prompted, text_prompts[0], image)
        logits = torch.stack([scale.exp() * i @ t.T for i, t in zip(image, text, strict=True)])  # type: ignore[operator]
    else:
        if config is not None and (config.per_class or config.class_position != "end"):
            text = plain_names(model, prompted, text_prompts[0])
        else:
            text = plain_text(model, prompted.classes.ids, text_prompts, prompted.backbone.text.start)
        logits = scale.exp() * image @ _unit(text, prompted.text_surgery).T  # type: ignore[operator]
    return logits if bias is None else logits + bias


def _conditional(model: nn.Module, prompted: Any, context: Tensor, image: Tensor) -> Tensor:
    """(b, c, d) unit features, one image after the other as CoCoOp's published code (arXiv 2203.05557)."""
    net = prompted.prompts.meta_net
    text = []
    for feature in image:
        hidden = F.relu(net.linear1.weight @ feature + net.linear1.bias)
        shift = net.linear2.weight @ hidden + net.linear2.bias
        text.append(_unit(plain_names(model, prompted, context + shift), prompted.text_surgery))
    return torch.stack(text)


def _unit(features: Tensor, surgery: nn.Module | None) -> Tensor:
    return F.normalize(features if surgery is None else surgery(features), dim=-1)


def _text(model: nn.Module) -> Any:
    """The module with the text tower's parts: ``model.text``, or the model itself."""
    return getattr(model, "text", model)


def _visual(model: nn.Module) -> Any:
    return model.visual


def _text_blocks(text: Any, ids: Tensor, prompts: Sequence[Tensor], start: int) -> list[Tensor]:
    """(c, t, width) after every block."""
    t, mask = ids.shape[1], text.attn_mask
    x = text.token_embedding(ids)
    if prompts:
        x = _with_context(x, prompts[0], start)
    x = x + text.positional_embedding[:t]
    states = []
    for layer, block in enumerate(text.transformer.resblocks):
        if 0 < layer < len(prompts):
            x = _with_context(x, prompts[layer], start)
        x = block(x, attn_mask=None if mask is None else mask[:t, :t])
        states.append(x)
    return states


def _with_context(x: Tensor, prompt: Tensor, start: int) -> Tensor:
    """Start token, context, rest of the prompt: [SOS][P_1 .. P_n][words . EOS]."""
    context = prompt.expand(x.shape[0], -1, -1).to(x.dtype)
    return torch.cat([x[:, :start], context, x[:, start + prompt.shape[0] :]], dim=1)


def _text_head(text: Any, x: Tensor, ids: Tensor) -> Tensor:
    pooled = _read(text, text.ln_final(x), ids)
    if text.text_projection is None:
        return pooled
    if isinstance(text.text_projection, nn.Linear):
        return text.text_projection(pooled)
    return pooled @ text.text_projection


def _read(text: Any, x: Tensor, ids: Tensor) -> Tensor:
    pool = getattr(text, "text_pool_type", None) or text.pool_type
    eos = text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id
    return text_global_pool(x, ids, pool, eos_token_id=eos)


def _image_blocks(visual: Any, images: Tensor, prompts: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """(b, tokens + n, width) after every block, and the number of tokens that are no prompts."""
    trunk = getattr(visual, "trunk", None)
    if trunk is None:
        x = visual.conv1(images)
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        first = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([first, x], dim=1) + visual.positional_embedding.to(x.dtype)
        norm, blocks = visual.ln_pre, visual.transformer.resblocks
    else:
        x = trunk._pos_embed(trunk.patch_embed(images))
        norm, blocks = trunk.norm_pre, trunk.blocks
    tokens = x.shape[1]
    if prompts:
        x = torch.cat([x, prompts[0].expand(x.shape[0], -1, -1).to(x.dtype)], dim=1)
    x = norm(x)
    states = []
    for layer, block in enumerate(blocks):
        if 0 < layer < len(prompts):
            context = prompts[layer].expand(x.shape[0], -1, -1).to(x.dtype)
            x = torch.cat([x[:, : x.shape[1] - context.shape[1]], context], dim=1)
        x = block(x)
        states.append(x)
    return states, tokens


def _image_head(visual: Any, x: Tensor) -> Tensor:
    if hasattr(visual, "trunk"):
        return visual.head(visual.trunk.forward_head(visual.trunk.norm(x)))
    pooled = visual._pool(x)[0]
    return pooled if visual.proj is None else pooled @ visual.proj
