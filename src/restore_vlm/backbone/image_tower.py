"""The frozen image tower of a CLIP-like model, with room for prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from restore_vlm.backbone.blocks import Block
from restore_vlm.backbone.tower import ClosedError, OpaqueImageTower, Tower


class ImageTower(Tower):
    """A ViT seen as embedding, blocks and read-out: :meth:`embed`, :meth:`run`, :meth:`read_out`.

    Prompt tokens are appended after the patch tokens, before the tower's first LayerNorm, and
    replaced before later blocks; the read-out never sees them.

    Args:
        visual: ``model.visual`` of an open_clip model.

    Raises:
        ClosedError: If the tower is not a ViT of known blocks.
    """

    visual: Any

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual
        if isinstance(visual, VisionTransformer):
            blocks = visual.transformer.resblocks
            self.one_token = visual.pool_type == "tok" and visual.attn_pool is None
            self.registers = 1
        elif isinstance(visual, TimmModel) and type(visual.trunk).__name__ == "VisionTransformer":
            trunk = visual.trunk
            blocks = trunk.blocks
            self.one_token = trunk.global_pool == "token" and trunk.attn_pool is None
            self.registers = trunk.num_prefix_tokens
        else:
            raise ClosedError(f"is a {type(getattr(visual, 'trunk', visual)).__name__}")
        wrapped = [Block(b) for b in blocks]
        self.blocks = nn.ModuleList(wrapped)
        self.width, self.depth = wrapped[0].width, len(wrapped)

    def embed(self, images: Tensor, prompt: Tensor | None = None) -> Tensor:
        """What enters the first block.

        Args:
            images: (b, 3, h, w), normalised.
            prompt: (n, width), or (b, n, width) where it depends on the image.

        Returns:
            (b, tokens, width): class token if there is one, patches, prompt.
        """
        x = self._patches(images)
        if prompt is not None:
            x = torch.cat([x, prompt.to(x.dtype).expand(len(x), -1, -1)], dim=1)
        v = self.visual
        return v.ln_pre(x) if isinstance(v, VisionTransformer) else v.trunk.norm_pre(x)

    def _patches(self, images: Tensor) -> Tensor:
        v = self.visual
        if isinstance(v, VisionTransformer):
            x = v.conv1(images).flatten(2).transpose(1, 2).to(v.class_embedding.dtype)
            x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], dim=1)
            return x + v.positional_embedding
        return v.trunk._pos_embed(v.trunk.patch_embed(images))

    def run(self, x: Tensor, start: int = 0, stop: int | None = None, read: Tensor | None = None) -> Tensor:
        """Runs blocks ``start`` to ``stop`` - 1.

        Args:
            x: (b, tokens, width), hidden states before block ``start``: from :meth:`embed` or an earlier
                run, with any tokens put in or taken out.
            start: The first block.
            stop: The block that is not run any more; None runs to the end.
            read: (r,) places of the tokens wanted; None gives all of them.

        Returns:
            (b, tokens, width), or (b, r, width).
        """
        stop = self.depth if stop is None else stop
        for layer in range(start, stop):
            x = self.blocks[layer](x, read=read if layer == stop - 1 else None)
        return x

    def read_out(self, x: Tensor) -> Tensor:
        """(b, tokens, width), or (b, 1, width) where one token is read -> (b, d), unnormalised."""
        v = self.visual
        if isinstance(v, VisionTransformer):
            pooled = v.ln_post(x[:, 0]) if self.one_token else v._pool(x)[0]
            return pooled if v.proj is None else pooled @ v.proj
        return v.head(v.trunk.forward_head(v.trunk.norm(x)))

    def state(self, x: Tensor, tokens: int) -> Tensor:
        """The (b, width) embedding a block is judged by: its class token, or without one the
        mean of its patch tokens."""
        if self.registers:
            return x[:, 0]
        return x[:, :tokens].mean(1)

    def forward(
        self, images: Tensor, prompts: Sequence[Tensor] = (), states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Encodes images with prompts in.

        Args:
            images: (b, 3, h, w), normalised.
            prompts: For layers 0, 1, ...: (n, width), or (b, n, width) where they depend on the image.
            states: Whether to return the embedding after every block.

        Returns:
            (b, d) unnormalised features, and per block the (b, width) states (empty unless asked).
        """
        x = self.embed(images, prompts[0] if prompts else None)
        tokens = x.shape[1] - (prompts[0].shape[-2] if prompts else 0)
        seen: list[Tensor] = []
        for layer in range(self.depth):
            if 0 < layer < len(prompts):
                prompt = prompts[layer].to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, :tokens], prompt], dim=1)
            last = self.one_token and layer == self.depth - 1
            read = torch.zeros(1, dtype=torch.long, device=x.device) if last else None
            x = self.run(x, layer, layer + 1, read)
            if states:
                seen.append(self.state(x, tokens))
        return self.read_out(x[:, :tokens]), seen


def open_image_tower(visual: Any) -> ImageTower | OpaqueImageTower:
    """The image tower of an open_clip model, with blocks to enter where they are known."""
    try:
        return ImageTower(visual)
    except ClosedError as error:
        return OpaqueImageTower(visual, str(error))
