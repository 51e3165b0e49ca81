"""The frozen text tower of a CLIP-like model, with room for prompts.

Under a causal mask every token before the first class-specific one has the same hidden state
for all classes: it is computed once. Per class only the class's own tokens up to end-of-text
are computed, packed without padding; the last block is computed at end-of-text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from restore_vlm.backbone.blocks import WORKS, Block, attention, causal_mask
from restore_vlm.errors import UserError


@dataclass
class ClassPrompts:
    """The token ids of one prompt per class, arranged for the tower.

    Attributes:
        ids: (c, t) token ids, as the tokenizer gives them.
        context: Number of tokens after the start token that learned context replaces.
        prefix: (p,) ids shared by all classes, start token and context included.
        suffix: Flat ids of what is left of each class, up to its end-of-text, classes sorted by length.
        positions: Flat positions of ``suffix``.
        groups: (classes, length) runs of equal length in ``suffix``.
        order: (c,) where class i stands in that order.
        ends: (c,) index of each end-of-text in ``suffix``.
    """

    ids: Tensor
    context: int
    prefix: Tensor
    suffix: Tensor
    positions: Tensor
    groups: list[tuple[int, int]]
    order: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return len(self.ids)


class TextTower(nn.Module):
    """A causal (CLIP) or bidirectional (SigLIP) text transformer seen as embedding, blocks, read-out.

    A bidirectional tower shares nothing between classes and takes the plain path: every token of
    every class, its last block read at one token.

    Args:
        model: An open_clip model, or its ``text`` module.
        tokenizer: Maps a list of strings to (c, t) ids.

    Raises:
        UserError: If the tower is not open_clip's own text transformer.
    """

    token_embedding: Any
    positional_embedding: Tensor
    ln_final: Any
    projection: Any

    def __init__(self, model: nn.Module, tokenizer: Callable[[list[str]], Tensor]) -> None:
        super().__init__()
        text: Any = getattr(model, "text", model)
        blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
        if blocks is None or getattr(text, "cls_emb", None) is not None:
            raise UserError(f"Prompts cannot enter a text tower of type {type(text).__name__}; {WORKS}")
        self.token_embedding, self.positional_embedding = text.token_embedding, text.positional_embedding
        self.ln_final, self.projection = text.ln_final, text.text_projection
        wrapped = [Block(b) for b in blocks]
        self.blocks = nn.ModuleList(wrapped)
        self.pool = getattr(text, "text_pool_type", None) or text.pool_type
        self.eos_id: Any = getattr(text, "text_eos_id", None) or getattr(text, "eos_id", None)
        if getattr(text, "use_pad_mask", False) or self.pool not in ("argmax", "eos", "first", "last"):
            raise UserError(f"Prompts cannot enter a text tower that pools by {self.pool!r}; {WORKS}")
        self.causal = text.attn_mask is not None
        self.packed = self.causal and self.pool in ("argmax", "eos")
        self.width, self.depth = wrapped[0].width, len(wrapped)
        self.tokenizer = tokenizer
        first = tokenizer(["a", "b"])[:, 0]
        self.start = int(first[0] == first[1])

    def end(self, ids: Tensor) -> Tensor:
        """(c, t) ids -> (c,) position of the token each class is read at."""
        if self.pool == "argmax":
            return ids.argmax(-1)
        if self.pool == "eos":
            return ids.eq(self.eos_id).int().argmax(-1)
        return torch.full((len(ids),), 0 if self.pool == "first" else ids.shape[1] - 1)

    def tokenize(self, prompts: Sequence[str], context: int = 0, placeholders: int = 0) -> ClassPrompts:
        """Arranges one prompt per class.

        Args:
            prompts: One string per class.
            context: Leading tokens of each prompt that learned context will replace.
            placeholders: Tokens to insert in front of each prompt for learned context.

        Raises:
            UserError: If there is no prompt, or one that leaves no room for another token: a tokenizer
                cuts what is too long without a word.
        """
        if not prompts:
            raise UserError("There are no classes; name at least one.")
        ids = self._encode(prompts, placeholders)
        cut = (ids == self._encode([f"{p} x" for p in prompts], placeholders)).all(1)
        if cut.any():
            raise UserError(
                f"The prompt {prompts[int(cut.int().argmax())]!r} fills the {ids.shape[1]} tokens the text "
                "tower reads, or is longer; shorten the class name."
            )
        return self._arrange(ids, self.end(ids), max(context, placeholders))

    def _encode(self, prompts: Sequence[str], placeholders: int) -> Tensor:
        """(c, t) ids with placeholder tokens put in after the start token."""
        ids = self.tokenizer(list(prompts))
        filler = ids.new_zeros(len(ids), placeholders)
        return torch.cat([ids[:, : self.start], filler, ids[:, self.start :]], dim=1)[:, : ids.shape[1]]

    def _arrange(self, ids: Tensor, ends: Tensor, context: int) -> ClassPrompts:
        device = self.positional_embedding.device
        differs = (ids != ids[:1]).any(0)
        shared = int(differs.int().argmax()) if differs.any() else ids.shape[1]
        shared = max(min(shared, int(ends.min())), self.start + context) if self.packed else 0
        lengths = ends + 1 - shared
        order = lengths.argsort(stable=True)
        rows = [torch.arange(shared, int(ends[c]) + 1) for c in order]
        sizes, counts = lengths[order].unique_consecutive(return_counts=True)
        position = torch.empty_like(order)
        position[order] = torch.arange(len(order))
        return ClassPrompts(
            ids=ids.to(device),
            context=context,
            prefix=ids[0, :shared].to(device),
            suffix=torch.cat([ids[c, r] for c, r in zip(order, rows, strict=True)]).to(device),
            positions=torch.cat(rows).to(device),
            groups=list(zip(counts.tolist(), sizes.tolist(), strict=True)),
            order=position.to(device),
            ends=(lengths[order].cumsum(0) - 1).to(device),
        )

    def word_embeddings(self, text: str, count: int) -> Tensor:
        """The (count, width) embeddings of the first tokens of ``text``."""
        ids = self.tokenizer([text])[0, self.start : self.start + count]
        return self.token_embedding(ids.to(self.token_embedding.weight.device)).detach()

    def read_out(self, x: Tensor) -> Tensor:
        """(c, width) -> (c, d), unnormalised."""
        x = self.ln_final(x)
        if isinstance(self.projection, nn.Linear):
            return self.projection(x)
        return x if self.projection is None else x @ self.projection

    def forward(
        self, classes: ClassPrompts, prompts: Sequence[Tensor] = (), states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Encodes classes with prompts in.

        Args:
            classes: From :meth:`tokenize`.
            prompts: For layers 0, 1, ...: (n, width); layer 0 replaces the context's word embeddings.
            states: Whether to return the end-of-text embedding after every block.

        Returns:
            (c, d) unnormalised features, and per block the (c, width) states (empty unless asked).
        """
        if self.packed:
            return self._packed(classes, prompts, states)
        return self._plain(classes, prompts, states)

    def _packed(
        self, classes: ClassPrompts, prompts: Sequence[Tensor], states: bool
    ) -> tuple[Tensor, list[Tensor]]:
        p, position = len(classes.prefix), self.positional_embedding
        prefix = self.token_embedding(classes.prefix)
        if prompts:
            prefix = self._replace(prefix, prompts[0])
        suffix = self.token_embedding(classes.suffix) + position[classes.positions]
        x, seen = torch.cat([prefix + position[:p], suffix]), []
        for layer, block in enumerate(self.blocks):
            if 0 < layer < len(prompts):
                x = self._replace(x, prompts[layer])
            x = self._packed_block(block, x, classes, last=layer == self.depth - 1)
            if states:
                seen.append(x if layer == self.depth - 1 else x[p + classes.ends])
        return self.read_out(x)[classes.order], [s[classes.order] for s in seen]

    def _replace(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Puts (n, width) prompts at the context positions of (..., t, width) tokens."""
        start, stop = self.start, self.start + prompt.shape[-2]
        prompt = prompt.to(x.dtype).expand(*x.shape[:-2], -1, -1)
        return torch.cat([x[..., :start, :], prompt, x[..., stop:, :]], dim=-2)

    def _packed_block(self, block: Any, x: Tensor, classes: ClassPrompts, last: bool) -> Tensor:
        """One block over (p + suffix, width) packed tokens; the last one at the ends only."""
        p = len(classes.prefix)
        if last:
            x, everything = x[p + classes.ends], x
            q, k, v = block.read_qkv(everything, x)
            sizes, queries = [c for c, _ in classes.groups], [1] * len(classes.groups)
        else:
            q, k, v = block.qkv(x)
            sizes, queries = [c * s for c, s in classes.groups], [s for _, s in classes.groups]
        keys = [c * s for c, s in classes.groups]
        (pk, *ks), (pv, *vs) = k.split([p, *keys]), v.split([p, *keys])
        out = []
        if not last:
            pq, q = q.split([p, len(q) - p])
            hq, hk, hv = (t.transpose(0, 1)[None] for t in (pq, pk, pv))
            out.append(attention(hq, hk, hv, causal_mask(p, p, pq))[0].transpose(0, 1))
        for (c, s), t, gq, gk, gv in zip(classes.groups, queries, q.split(sizes), ks, vs, strict=True):
            gk = torch.cat([pk.expand(c, *pk.shape), gk.unflatten(0, (c, s))], dim=1)
            gv = torch.cat([pv.expand(c, *pv.shape), gv.unflatten(0, (c, s))], dim=1)
            gq = gq.unflatten(0, (c, t)).transpose(1, 2)
            mask = causal_mask(t, p + s, gq) if t > 1 else None
            attended = attention(gq, gk.transpose(1, 2), gv.transpose(1, 2), mask)
            out.append(attended.transpose(1, 2).flatten(0, 1))
        return block.finish(x, torch.cat(out))

    def _plain(
        self, classes: ClassPrompts, prompts: Sequence[Tensor], states: bool
    ) -> tuple[Tensor, list[Tensor]]:
        ids = classes.ids
        x, ends = self.token_embedding(ids), self.end(ids)
        if prompts:
            x = self._replace(x, prompts[0])
        x = x + self.positional_embedding[: ids.shape[1]]
        mask = causal_mask(ids.shape[1], ids.shape[1], x) if self.causal else None
        read = ends[:1].to(x.device) if self.pool in ("first", "last") else None
        rows, seen = torch.arange(len(ids), device=x.device), []
        for layer, block in enumerate(self.blocks):
            if 0 < layer < len(prompts):
                x = self._replace(x, prompts[layer])
            last = layer == self.depth - 1
            x = block(x, mask, read if last else None)
            if states or last:
                seen.append(x[:, 0] if last and read is not None else x[rows, ends])
        return self.read_out(seen[-1]), seen if states else []
