"""The prompts of classes as a text tower reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from restore_vlm.errors import UserError

Tokenizer = Callable[[list[str]], Tensor]
"""Maps strings to (c, t) ids, t the tokens that the text tower reads."""


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
class ClassTokens:
    """The token ids of one prompt per class.

    Attributes:
        ids: (c, t) token ids, in the order the tower reads them.
    """

    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class ClassPrompts(ClassTokens):
    """The same, arranged for a tower that computes only what is read.

    Its tokens in one row, "flat", are those of ``prefix`` and ``suffix``, or of ``ids`` where the
    tower shares nothing between classes.

    Attributes:
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


def encode(tokenizer: Tokenizer, prompts: Sequence[str], start: int = 0, placeholders: int = 0) -> Tensor:
    """(c, t) ids of prompts with placeholder tokens put in at ``start``.

    Raises:
        UserError: If there is no prompt, or one that leaves no room for another token: a tokenizer
            cuts what is too long without a word.
    """
    if not prompts:
        raise UserError("There are no classes; name at least one.")

    def padded(texts: list[str]) -> Tensor:
        ids = tokenizer(texts)
        filler = ids.new_zeros(len(ids), placeholders)
        return torch.cat([ids[:, :start], filler, ids[:, start:]], dim=1)[:, : ids.shape[1]]

    ids, longer = padded(list(prompts)), padded([f"{p} x" for p in prompts])
    cut = (ids == longer).all(1)
    if cut.any():
        raise UserError(
            f"The prompt {prompts[int(cut.int().argmax())]!r} fills the {ids.shape[1]} tokens the text "
            "tower reads, or is longer; shorten the class name."
        )
    return ids
