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
from torch.utils.checkpoint import checkpoint

from restore_vlm.backbone.blocks import WORKS, Block, attention, causal_mask
from restore_vlm.errors import UserError

KEPT = 1 << 30
"""Bytes of activations kept for the backward pass where the context depends on images. More are
computed again instead, chunk by chunk of images; where one image alone has more, block by block."""
PASSING = 1 << 28
"""Bytes of activations in one block of an evaluation of such a context, at least one image's."""


def _run(function: Callable[..., Any], *args: Any, again: bool) -> Any:
    """The function's value, computed ``again`` in the backward pass instead of kept."""
    return checkpoint(function, *args, use_reentrant=False) if again else function(*args)


@dataclass(frozen=True)
class Context:
    """What learned tokens there are in a prompt, and where (CoOp, arXiv 2109.01134).

    Attributes:
        length: n, the number of learned tokens.
        words: The template in front of a class name, of which the first n tokens are learned and
            the others stay; empty where the template is the n learned tokens.
        position: Where the name stands: at the ``end`` of the template, in the ``middle`` (after the
            first n // 2 learned tokens) or at its ``front``. Closing words stay last.
        per_class: Whether every class has learned tokens of its own at layer 0.
    """

    length: int
    words: str = ""
    position: str = "end"
    per_class: bool = False


@dataclass
class ClassPrompts:
    """The token ids of one prompt per class, arranged for the tower.

    Its tokens in one row, "flat", are those of ``prefix`` and ``suffix``, or of ``ids`` where the
    tower shares nothing between classes.

    Attributes:
        ids: (c, t) token ids, in the order the tower reads them.
        prefix: (p,) ids shared by all classes.
        suffix: Flat ids of what is left of each class, up to its end-of-text, classes sorted by length.
        positions: Positions of ``prefix`` and ``suffix``.
        groups: (classes, length) runs of equal length in ``suffix``.
        order: (c,) where class i stands in that order.
        ends: (c,) index of each end-of-text in ``suffix``.
        per_class: Whether layer 0 takes context tokens of each class's own.
        rows: (r,) flat rows of the context tokens.
        slots: (r,) which of the n context tokens each is.
        owners: (r,) the class each belongs to.
        run: Whether ``rows`` are the n rows after the start token.
    """

    ids: Tensor
    prefix: Tensor
    suffix: Tensor
    positions: Tensor
    groups: list[tuple[int, int]]
    order: Tensor
    ends: Tensor
    per_class: bool
    rows: Tensor
    slots: Tensor
    owners: Tensor
    run: bool

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

    def tokenize(self, prompts: Sequence[str]) -> ClassPrompts:
        """Arranges one hand-written prompt per class.

        Raises:
            UserError: If there is no prompt, or one that leaves no room for another token: a tokenizer
                cuts what is too long without a word.
        """
        ids = self._encode(prompts)
        return self._arrange(ids, torch.zeros(len(ids), 0, dtype=torch.long), per_class=False)

    def tokenize_names(self, names: Sequence[str], context: Context) -> ClassPrompts:
        """Arranges the prompts ``[words] name.`` of classes, with learned tokens in.

        Raises:
            UserError: As :meth:`tokenize`.
        """
        n, words = context.length, context.words
        ids = self._encode([f"{words} {name}.".lstrip() for name in names], 0 if words else n)
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

    def _encode(self, prompts: Sequence[str], placeholders: int = 0) -> Tensor:
        """(c, t) ids with placeholder tokens put in after the start token."""
        if not prompts:
            raise UserError("There are no classes; name at least one.")
        ids, longer = (self._insert(p, placeholders) for p in (list(prompts), [f"{p} x" for p in prompts]))
        cut = (ids == longer).all(1)
        if cut.any():
            raise UserError(
                f"The prompt {prompts[int(cut.int().argmax())]!r} fills the {ids.shape[1]} tokens the text "
                "tower reads, or is longer; shorten the class name."
            )
        return ids

    def _insert(self, prompts: list[str], placeholders: int) -> Tensor:
        ids = self.tokenizer(prompts)
        filler = ids.new_zeros(len(ids), placeholders)
        return torch.cat([ids[:, : self.start], filler, ids[:, self.start :]], dim=1)[:, : ids.shape[1]]

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
        device, (c, n) = self.positional_embedding.device, context.shape
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
            _run(
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
        groups = classes.groups if self.packed else [classes.ids.shape]
        tokens, keys = p + sum(c * t for c, t in groups), sum(c * (p + t) for c, t in groups)
        scores = self.blocks[0].heads * sum(c * t * (p + t) for c, t in groups)  # type: ignore[operator]
        hidden = len(self.blocks[0].mlp_in.weight)  # type: ignore[union-attr, arg-type]
        return 4 * blocks * (tokens * (4 * width + 2 * hidden) + 2 * keys * width + 2 * scores)

    def _pass(
        self, classes: ClassPrompts, prompts: Sequence[Tensor], states: bool, blockwise: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """(m, c, d) features and (m, c, width) states, m = 1 unless the context depends on images.

        ``blockwise``, only what enters a block is kept for the backward pass.
        """
        return (self._packed if self.packed else self._plain)(classes, prompts, states, blockwise)

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

    def _packed(
        self, classes: ClassPrompts, prompts: Sequence[Tensor], states: bool, blockwise: bool
    ) -> tuple[Tensor, list[Tensor]]:
        p = len(classes.prefix)
        x = self.token_embedding(torch.cat([classes.prefix, classes.suffix]))[None]
        if prompts:
            x = self._place(x, classes, prompts[0])
        x, seen = x + self.positional_embedding[classes.positions], []
        for layer, block in enumerate(self.blocks):
            if 0 < layer < len(prompts):
                x = self._place(x, classes, prompts[layer])
            x = _run(self._packed_block, block, x, classes, layer == self.depth - 1, again=blockwise)
            if states:
                seen.append(x if layer == self.depth - 1 else x[:, p + classes.ends])
        return self.read_out(x)[:, classes.order], [s[:, classes.order] for s in seen]

    def _packed_block(self, block: Any, x: Tensor, classes: ClassPrompts, last: bool) -> Tensor:
        """One block over (m, p + suffix, width) packed tokens; the last one at the ends only."""
        m, p = len(x), len(classes.prefix)
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
        return block.finish(x, torch.cat(out, dim=1))

    def _plain(
        self, classes: ClassPrompts, prompts: Sequence[Tensor], states: bool, blockwise: bool
    ) -> tuple[Tensor, list[Tensor]]:
        ids, (c, t) = classes.ids, classes.ids.shape
        x = self.token_embedding(ids).flatten(0, 1)[None]
        if prompts:
            x = self._place(x, classes, prompts[0])
        m = len(x)
        x = x.view(m * c, t, -1) + self.positional_embedding[:t]
        mask = causal_mask(t, t, x) if self.causal else None
        ends = self.end(ids).to(x.device).repeat(m)
        read = ends[:1] if self.pool in ("first", "last") else None
        rows, seen = torch.arange(m * c, device=x.device), []
        for layer, block in enumerate(self.blocks):
            if 0 < layer < len(prompts):
                x = self._place(x.view(m, c * t, -1), classes, prompts[layer]).view(m * c, t, -1)
            last = layer == self.depth - 1
            x = _run(block, x, mask, read if last else None, again=blockwise)
            if states or last:
                end = x[:, 0] if last and read is not None else x[rows, ends]
                seen.append(end.unflatten(0, (m, c)))
        return self.read_out(seen[-1]), seen if states else []
