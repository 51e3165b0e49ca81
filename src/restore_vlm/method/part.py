"""What a method is composed of: parts that know all about themselves.

A part is a configuration (:class:`Part`) with what follows from it, and the module that
:meth:`build` makes of it. The composition asks its parts and knows none of them by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor, nn

TowerName = Literal["text", "image"]
Towers = Literal["text", "image", "both"]
Tokens = Mapping[TowerName, Sequence[Tensor]]
"""The learned tokens of both towers, per layer (n, width); none for a tower without."""
Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _areas(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1] <= 1:
        raise ValueError("crops are given by their least and largest share of the area, such as [0.08, 1.0]")
    return value


Areas = Annotated[tuple[float, float], AfterValidator(_areas)]
"""The least and the largest share of an image's area that a random crop has."""


def later(default: Any) -> Any:
    """The default of a key that came later: it is what files without the key mean.

    It is left out where that is its value, so that what is written of a recipe, the configurations of
    runs and the addresses of benchmark runs included, stays the same where the numbers do.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


class Table(BaseModel):
    """A table of a method's TOML file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Composition(Protocol):
    """What a part can ask about the method it is in."""

    @property
    def trainable(self) -> bool:
        """Whether there is anything to learn by gradient."""

    @property
    def conditional(self) -> bool:
        """Whether the class features depend on the image."""

    def parts(self) -> Mapping[str, Part]:
        """The parts there are, by their dotted keys."""

    def learns(self, tower: TowerName) -> bool:
        """Whether training changes the features of a tower."""


class Part(Table):
    """The hyper-parameters of a part and what follows from them; the defaults are those of most parts."""

    @property
    def trainable(self) -> bool:
        """Whether it has tensors to learn by gradient."""
        return False

    @property
    def searches(self) -> bool:
        """Whether it chooses settings on validation photos."""
        return False

    @property
    def per_image(self) -> bool:
        """Whether it makes the class features depend on the image."""
        return False

    @property
    def compares(self) -> frozenset[str]:
        """What of the frozen model a training step needs for it: ``text``, ``image``, ``states``."""
        return frozenset()

    def learns(self, tower: TowerName) -> bool:
        """Whether it changes the features of a tower."""
        return False

    def enters(self, tower: TowerName) -> bool:
        """Whether it needs a tower whose blocks are known."""
        return False

    def conflicts(self, method: Composition) -> Iterable[str]:
        """Why it cannot be in a method, one sentence without its full stop for each reason."""
        return ()

    def describe(self) -> str:
        """What it is in a few words; nothing where its key says it all."""
        return ""

    def idle(self) -> frozenset[str]:
        """Its settings that have no effect as the others are."""
        return frozenset()

    @classmethod
    def settle(cls, chosen: dict[str, Any]) -> None:
        """Adds what follows from settings given by hand: a value that is set is not searched."""


class Group(Table):
    """Parts of one kind, each under its own key and None where a method does not have it."""

    @classmethod
    def kinds(cls) -> dict[str, type[Part]]:
        """What there could be, by their keys."""
        choices = {key: get_args(field.annotation) for key, field in cls.model_fields.items()}
        return {key: next(kind for kind in kinds if issubclass(kind, Part)) for key, kinds in choices.items()}

    def parts(self) -> dict[str, Part]:
        """Those there are, by their keys."""
        return {name: part for name, part in self if isinstance(part, Part)}


class PartModule(nn.Module):
    """The tensors of a part."""

    def end_epoch(self, epoch: int, epochs: int, tokens: Tokens) -> None:
        """What it does at the end of an epoch.

        Args:
            epoch: Counted from 0.
            epochs: Number of epochs of the run.
            tokens: The learned tokens as they are then.
        """


def within(tower: TowerName, towers: Towers) -> bool:
    """Whether ``towers`` includes one."""
    return towers in (tower, "both")


def in_words(towers: Towers) -> str:
    """``both towers``, or the name of one."""
    return "both towers" if towers == "both" else f"{towers} tower"
