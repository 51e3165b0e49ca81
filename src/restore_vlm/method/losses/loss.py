"""What a term of the training loss has to say, and what it is made with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from restore_vlm.method.encoded import Encoded
from restore_vlm.method.part import Composition, Part, Ratio

Mean = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Tensors of this process -> their means over all that share a batch; a gradient passes as it is."""


def alone(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The :data:`Mean` of a single process."""
    return tensors


class Start(Protocol):
    """What a loss may ask of the model before the first step."""

    def prompt_tokens(self) -> tuple[list[Tensor], list[Tensor]]:
        """Text and image prompts per layer."""


class LossConfig(Part):
    """The hyper-parameters of a loss.

    Attributes:
        weight: What the term is multiplied by.
        sees: The one tower whose features it looks at, or ``all``.
    """

    sees: ClassVar[Literal["text", "image", "all"]] = "all"

    weight: Ratio = 1.0

    def reaches(self, method: Composition) -> bool:
        """Whether its gradient reaches something that the method learns."""
        return self.sees == "all" or method.learns(self.sees)

    @abstractmethod
    def build(self, model: Start, mean: Mean = alone) -> Loss:
        """The term.

        Args:
            model: Before the first step, holding the training classes.
            mean: For means over images that the term is not linear in; the term itself is averaged anyway.
        """


class Loss(nn.Module, ABC):
    """One named term of the training loss; state that must survive a kill is a buffer.

    Args:
        config: The term's part of the method.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, out: Encoded, labels: Tensor) -> Tensor:
        """The scalar loss, unweighted.

        Args:
            out: Of the model; ``out.frozen`` holds what the term compares with.
            labels: (b,).
        """
