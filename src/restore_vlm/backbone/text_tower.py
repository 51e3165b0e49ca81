"""The frozen text tower of a CLIP-like model, with room for prompts.

Under a causal mask every token before the first class-specific one has the same hidden state
for all classes: it is computed once. Per class only the class's own tokens up to end-of-text
are computed, packed without padding; the last block is computed at end-of-text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from restore_vlm.backbone.blocks import Block, attention, causal_mask
from restore_vlm.backbone.class_prompts import ClassPrompts, Context, Tokenizer, encode
from restore_vlm.backbone.tower import ClosedError, OpaqueTextTower, Tower

KEPT = 1 << 30
"""Bytes of activations kept for the backward pass where the context depends on images. More are
computed again instead, chunk by chunk of images; where one image alone has more, block by block."""
PASSING = 1 << 28
"""Bytes of activations in one block of an evaluation of such a context, at least one image's."""


def _checkpointed(function: Callable[..., Any], *args: Any, again: bool) -> Any:
    """The function's value, computed ``again`` in the backward pass instead of kept."""
    return checkpoint(function, *args, use_reentrant=False) if again else function(*args)


class TextTower(Tower):
    """A causal (CLIP) or bidirectional (SigLIP) text transformer seen as embedding, blocks and read-out:
    :meth:`embed`, :meth:`run`, :meth:`read_out`.

    Between blocks all tokens of all classes stand in one row, "flat"; see :class:`ClassPrompts`.
    A bidirectional tower shares nothing between classes and takes the plain path: every token of
    every class, its last block read at one token.

    Args:
        model: An open_clip model, or its ``text`` module.
        tokenizer: Maps a list of strings to (c, t) ids.

    Raises:
        ClosedError: If the tower is not open_clip's own text transformer of known blocks.
    """

    token_embedding: Any
    positional_embedding: Tensor
    ln_final: Any
    projection: Any

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__()
        text: Any = getattr(model, "text", model)
        blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
        if blocks is None or getattr(text, "cls_emb", None) is not None:
            token = "" if blocks is None else " with a class token"
            raise ClosedError(f"is a {type(text).__name__}{token}")
        self.token_embedding, self.positional_embedding = text.token_embedding, text.positional_embedding
        self.ln_final, self.projection = text.ln_final, text.text_projection
        wrapped = [Block(b) for b in blocks]
        self.blocks = nn.ModuleList(wrapped)
        self.pool = getattr(text, "text_pool_type", None) or text.pool_type
        self.eos_id: Any = getattr(text, "text_eos_id", None) or getattr(text, "eos_id", None)
        if getattr(text, "use_pad_mask", False) or self.pool not in ("argmax", "eos", "first", "last"):
            padding = " under a mask of padding" if getattr(text, "use_pad_mask", False) else ""
            raise ClosedError(f"pools by {self.pool!r}{padding}")
        self.causal = text.attn_mask is not None
        self.packed = self.causal and self.pool in ("argmax", "eos")
        self.width, self.depth = wrapped[0].width, len(wrapped)
        self.tokenizer = tokenizer
        first = tokenizer(["a", "b"])[:, 0]
        self.start = int(first[0] == first[1])

    @property
    def dim(self) -> int:
        """Dimension of the features."""
        if isinstance(self.projection, nn.Linear):
            return self.projection.out_features
        return self.width if self.projection is None else self.projection.shape[1]

    def end(self, ids: Tensor) -> Tensor:
        """(c, t) ids -> (c,) position of the token each class is read at."""
        if self.pool == "argmax":
            return ids.argmax(-1)
        if self.pool == "eos":
            return ids.eq(self.eos_id).int().argmax(-1)
        return torch.full((len(ids),), 0 if self.pool == "first" else ids.shape[1] - 1)

    def tokenize(self, prompts: Sequence[str]) -> ClassPrompts:
        """Arranges one hand-written prompt per class.

        Raises:
            UserError: If there is no prompt, or one that leaves no room for another token: a tokenizer
                cuts what is too long without a word.
        """
        ids = encode(self.tokenizer, prompts)
        return self._arrange(ids, torch.zeros(len(ids), 0, dtype=torch.long), per_class=False)

    def tokenize_names(self, names: Sequence[str], context: Context) -> ClassPrompts:
        """Arranges the prompts ``[words] name.`` of classes, with learned tokens in.

        Raises:
            UserError: As :meth:`tokenize`.
        """
        n, words = context.length, context.words
        ids = encode(
            self.tokenizer,
            [f"{words} {name}.".lstrip() for name in names],
            self.start,
            0 if words else n,
        )
        template = self._lengths([words])[0] if words else n
        slots = torch.arange(n).expand(len(ids), -1) + self.start
        if context.position == "end":
            return self._arrange(ids, slots, context.per_class)
        before, name = n // 2 if context.position == "middle" else 0, self.start + template
        room = (self._ends_of_words(ids) - name).tolist()
        lengths = [min(pair) for pair in zip(self._lengths(names), room, strict=True)]
        moved = []
        for row, length in zip(ids, lengths, strict=True):
            head, tail = self.start + before, name + length
            moved.append(torch.cat([row[:head], row[name:tail], row[head:name], row[tail:]]))
        behind = torch.arange(n) >= before
        return self._arrange(
            torch.stack(moved), slots + behind * torch.tensor(lengths)[:, None], context.per_class
        )

    def _ends_of_words(self, ids: Tensor) -> Tensor:
        """(c, t) ids -> (c,) position after the last token that the empty text does not have."""
        empty, t = self.tokenizer([""])[0, self.start :], ids.shape[1]
        tails = ([torch.equal(row[i:], empty[: t - i]) for i in range(self.start, t)] for row in ids)
        return torch.tensor([self.start + tail.index(True) for tail in tails])

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text alone."""
        return (self._ends_of_words(self.tokenizer(list(texts))) - self.start).tolist()

    def _arrange(self, ids: Tensor, context: Tensor, per_class: bool) -> ClassPrompts:
        """Arranges (c, t) ids with learned tokens at the (c, n) positions ``context``."""
        device, (c, n) = self.device, context.shape
        slots, ends = torch.arange(n).expand(c, -1), self.end(ids)
        differs = (marked := ids.scatter(1, context, -1 - slots)).ne(marked[:1]).any(0)
        if per_class:
            differs[context.min() :] = True
        shared = int(differs.int().argmax()) if differs.any() else ids.shape[1]
        shared = min(shared, int(ends.min())) if self.packed else 0
        lengths = ends + 1 - shared
        order = lengths.argsort(stable=True)
        rows = [torch.arange(shared, int(ends[c]) + 1) for c in order]
        sizes, counts = lengths[order].unique_consecutive(return_counts=True)
        position, last = order.argsort(), lengths[order].cumsum(0) - 1
        owners = torch.arange(c)[:, None].expand(-1, n)
        first = shared + (last + 1)[position] - lengths if self.packed else torch.arange(c) * ids.shape[1]
        flat = torch.where(context < shared, context, first[:, None] + context - shared)
        own = (context >= shared) | (owners == 0)
        return ClassPrompts(
            ids=ids.to(device),
            prefix=ids[0, :shared].to(device),
            suffix=torch.cat([ids[c, r] for c, r in zip(order, rows, strict=True)]).to(device),
            positions=torch.cat([torch.arange(shared), *rows]).to(device),
            groups=list(zip(counts.tolist(), sizes.tolist(), strict=True)),
            order=position.to(device),
            ends=last.to(device),
            per_class=per_class,
            rows=flat[own].to(device),
            slots=slots[own].to(device),
            owners=owners[own].to(device),
            run=self.packed and flat[own].tolist() == list(range(self.start, self.start + n)),
        )

    def word_embeddings(self, text: str, count: int) -> Tensor:
        """The (count, width) embeddings of the first tokens of ``text``."""
        ids = self.tokenizer([text])[0, self.start : self.start + count]
        return self.token_embedding(ids.to(self.token_embedding.weight.device)).detach()

    def read_out(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., d), unnormalised."""
        x = self.ln_final(x)
        if isinstance(self.projection, nn.Linear):
            return self.projection(x)
        return x if self.projection is None else x @ self.projection

    def forward(
        self, classes: ClassPrompts, prompts: Sequence[Tensor] = (), states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Encodes classes with prompts in.

        Args:
            classes: From :meth:`tokenize` or :meth:`tokenize_names`.
            prompts: For layers 0, 1, ...: (n, width) in place of the context tokens. Layer 0 also
                (c, n, width) where the classes have context of their own; else (b, n, width) is
                context that depends on b images.
            states: Whether to return the end-of-text embedding after every block.

        Returns:
            (c, d) unnormalised features, and per block the (c, width) states (empty unless asked);
            (b, c, d) and (b, c, width) where the context depends on images.
        """
        if prompts and prompts[0].ndim == 3 and not classes.per_class:
            return self._chunked(classes, prompts, states)
        features, seen = self._pass(classes, prompts, states)
        return features[0], [s[0] for s in seen]

    def _chunked(
        self, classes: ClassPrompts, prompts: Sequence[Tensor], states: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """As many images per pass as :data:`KEPT` or :data:`PASSING` has room for, at least one."""
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in prompts)
        budget, blocks = (KEPT, self.depth) if trained else (PASSING, 1)
        images = budget // self.activations(classes, blocks)
        if len(prompts[0]) <= images:
            return self._pass(classes, prompts, states)
        parts = [
            _checkpointed(
                self._pass,
                classes,
                [context, *prompts[1:]],
                states,
                trained and not images,
                again=trained and images > 0,
            )
            for context in prompts[0].split(max(1, images))
        ]
        features, seen = zip(*parts, strict=True)
        return torch.cat(features), [torch.cat(s) for s in zip(*seen, strict=True)]

    def activations(self, classes: ClassPrompts, blocks: int) -> int:
        """Estimated bytes of what ``blocks`` blocks keep for one image: tokens, keys and values, scores."""
        width, p = self.width, len(classes.prefix)
        block: Any = self.blocks[0]
        groups = classes.groups if self.packed else [classes.ids.shape]
        tokens, keys = p + sum(c * t for c, t in groups), sum(c * (p + t) for c, t in groups)
        scores = block.heads * sum(c * t * (p + t) for c, t in groups)
        hidden = len(block.mlp_in.weight)
        return 4 * blocks * (tokens * (4 * width + 2 * hidden) + 2 * keys * width + 2 * scores)

    def _pass(
        self, classes: ClassPrompts, prompts: Sequence[Tensor], states: bool, blockwise: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """(m, c, d) features and (m, c, width) states, m = 1 unless the context depends on images.

        ``blockwise``, only what enters a block is kept for the backward pass.
        """
        x, seen = self.embed(classes, prompts[0] if prompts else None), []
        for layer in range(self.depth):
            if 0 < layer < len(prompts):
                x = self._place(x, classes, prompts[layer])
            x = self.run(x, classes, layer, layer + 1, blockwise)
            if states:
                seen.append(x if layer == self.depth - 1 else self.at_ends(x, classes))
        return self.read_out(x), seen

    def embed(self, classes: ClassPrompts, context: Tensor | None = None) -> Tensor:
        """What enters the first block.

        Args:
            classes: From :meth:`tokenize` or :meth:`tokenize_names`.
            context: Layer 0 of the ``prompts`` of :meth:`forward`.

        Returns:
            (m, tokens, width), flat; m = 1 unless the context depends on m images.
        """
        ids = torch.cat([classes.prefix, classes.suffix]) if self.packed else classes.ids.flatten()
        x = self.token_embedding(ids)[None]
        if context is not None:
            x = self._place(x, classes, context)
        if self.packed:
            return x + self.positional_embedding[classes.positions]
        t = classes.ids.shape[1]
        return (x.unflatten(1, (-1, t)) + self.positional_embedding[:t]).flatten(1, 2)

    def run(
        self, x: Tensor, classes: ClassPrompts, start: int = 0, stop: int | None = None, again: bool = False
    ) -> Tensor:
        """Runs blocks ``start`` to ``stop`` - 1.

        Args:
            x: (m, tokens, width), flat hidden states before block ``start``: from :meth:`embed`,
                :meth:`insert` or an earlier run.
            classes: What they are the tokens of.
            start: The first block.
            stop: The block that is not run any more; None runs to the end.
            again: Whether only what enters a block is kept for the backward pass.

        Returns:
            (m, tokens, width), flat; behind the last block (m, c, width), at end-of-text alone.
        """
        step = self._packed_block if self.packed else self._plain_block
        for layer in range(start, self.depth if stop is None else stop):
            x = _checkpointed(step, self.blocks[layer], x, classes, layer == self.depth - 1, again=again)
        return x

    def insert(self, x: Tensor, classes: ClassPrompts, tokens: Tensor, over: int = 0) -> Tensor:
        """Puts tokens behind the start token of every class, between any two blocks.

        Args:
            x: (m, tokens, width), flat.
            classes: What they are the tokens of, without learned context.
            tokens: (n, width).
            over: How many of those put in earlier they take the place of.
        """
        own = x if self.packed else x.unflatten(1, (len(classes), -1))
        new = tokens.to(x.dtype).expand(*own.shape[:-2], -1, -1)
        own = torch.cat([own[..., : self.start, :], new, own[..., self.start + over :, :]], dim=-2)
        return own if self.packed else own.flatten(1, 2)

    def at_ends(self, x: Tensor, classes: ClassPrompts) -> Tensor:
        """(m, tokens, width), flat -> (m, c, width) at the token each class is read at."""
        if self.packed:
            return x[:, (x.shape[1] - len(classes.suffix) + classes.ends)[classes.order]]
        rows = x.unflatten(1, (len(classes), -1))
        return rows[:, torch.arange(len(classes)), self._ends(classes, rows.shape[2])]

    def _ends(self, classes: ClassPrompts, tokens: int) -> Tensor:
        """(c,) where each class is read among its ``tokens``, some of which may have been put in."""
        ends = self.end(classes.ids)
        return ends + (tokens - classes.ids.shape[1]) * (ends >= self.start)

    def _place(self, x: Tensor, classes: ClassPrompts, prompt: Tensor) -> Tensor:
        """Puts a layer's prompts at the context rows of (m, tokens, width) flat tokens."""
        slots, n = classes.slots, prompt.shape[-2]
        if classes.per_class and prompt.ndim == 3:
            prompt, slots = prompt.flatten(0, 1), classes.owners * n + slots
        passes = len(prompt) if prompt.ndim == 3 else len(x)
        x = x.expand(passes, -1, -1)
        if classes.run:
            start, stop = self.start, self.start + n
            return torch.cat([x[:, :start], prompt.to(x.dtype).expand(passes, -1, -1), x[:, stop:]], dim=1)
        rows = prompt.index_select(-2, slots).to(x.dtype)
        return x.index_copy(1, classes.rows, rows.expand(passes, -1, -1))

    def _packed_block(self, block: Any, x: Tensor, classes: ClassPrompts, last: bool) -> Tensor:
        """One block over (m, p + suffix, width) packed tokens; the last one at the ends only."""
        m, p = len(x), x.shape[1] - len(classes.suffix)
        if last:
            x, everything = x[:, p + classes.ends], x
            q, k, v = block.read_qkv(everything, x)
            sizes, queries = [c for c, _ in classes.groups], [1] * len(classes.groups)
        else:
            q, k, v = block.qkv(x)
            sizes, queries = [c * s for c, s in classes.groups], [s for _, s in classes.groups]
        keys = [c * s for c, s in classes.groups]
        (pk, *ks), (pv, *vs) = k.split([p, *keys], dim=1), v.split([p, *keys], dim=1)
        out = []
        if not last:
            pq, q = q.split([p, q.shape[1] - p], dim=1)
            hq, hk, hv = (t.transpose(1, 2) for t in (pq, pk, pv))
            out.append(attention(hq, hk, hv, causal_mask(p, p, pq)).transpose(1, 2))
        for (c, s), t, gq, gk, gv in zip(classes.groups, queries, q.split(sizes, dim=1), ks, vs, strict=True):
            gk, gv = (
                torch.cat([shared[:, None].expand(-1, c, -1, -1, -1), own.unflatten(1, (c, s))], dim=2)
                .flatten(0, 1)
                .transpose(1, 2)
                for shared, own in ((pk, gk), (pv, gv))
            )
            gq = gq.unflatten(1, (c, t)).flatten(0, 1).transpose(1, 2)
            attended = attention(gq, gk, gv, causal_mask(t, p + s, gq) if t > 1 else None)
            out.append(attended.transpose(1, 2).unflatten(0, (m, c)).flatten(1, 2))
        x = block.finish(x, torch.cat(out, dim=1))
        return x[:, classes.order] if last else x

    def _plain_block(self, block: Any, x: Tensor, classes: ClassPrompts, last: bool) -> Tensor:
        """One block over every token of every class."""
        (m, total, _), c = x.shape, len(classes)
        t = total // c
        x = x.view(m * c, t, -1)
        mask = causal_mask(t, t, x) if self.causal else None
        if not last:
            return block(x, mask).view(m, total, -1)
        ends = self._ends(classes, t).to(x.device)
        if self.pool in ("first", "last"):
            return block(x, mask, ends[:1]).view(m, c, -1)
        return block(x, mask)[torch.arange(m * c, device=x.device), ends.repeat(m)].view(m, c, -1)


def open_text_tower(model: nn.Module, tokenizer: Tokenizer) -> TextTower | OpaqueTextTower:
    """The text tower of an open_clip model, with blocks to enter where they are known."""
    try:
        return TextTower(model, tokenizer)
    except ClosedError as error:
        return OpaqueTextTower(model, tokenizer, str(error))
