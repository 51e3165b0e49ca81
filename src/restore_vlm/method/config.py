"""What a method is made of: its parts, validated together on construction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, Strict, field_validator, model_validator

from restore_vlm.method.averaging import AveragingConfig
from restore_vlm.method.heads import HeadsConfig
from restore_vlm.method.losses import LossConfig, LossesConfig
from restore_vlm.method.part import Areas, Group, Part, Ratio, Table, TowerName, later
from restore_vlm.method.prompts import PromptConfig
from restore_vlm.method.surgery import SurgeryConfig
from restore_vlm.method.templates import checked_ensemble, checked_template
from restore_vlm.method.weights import WeightsConfig


class MethodConfig(Table):
    """A method: prompts, weights, surgery and heads, with losses, gradient rule and averaging.

    Attributes:
        name: What tables call it.
        template: Hand-written prompt: of a class where no context is learned, and of the frozen
            model that anchors refer to.
        ensemble: Several templates, averaged, in its place: a list, the name of a bundled set (see
            :func:`restore_vlm.method.templates.sets`), or true for the 60 of PromptSRC.
        raw_ensemble: Whether class scores average the templates' features as they are (TaskRes)
            instead of as unit vectors (CLIP).
        fixed_template: Whether benchmarks leave the template as it is instead of taking each data
            set's own.
        gradient: ``plain``, or ``prograd``: where the loss gradient opposes that of the
            divergence from zero-shot, its component along it is removed (arXiv 2205.14865).
    """

    name: str
    template: Annotated[str, AfterValidator(checked_template)] = "a photo of a {}."
    ensemble: Annotated[bool | str | tuple[str, ...], AfterValidator(checked_ensemble)] = False
    raw_ensemble: bool = later(False)
    fixed_template: bool = later(False)
    prompts: PromptConfig | None = None
    weights: WeightsConfig = WeightsConfig()
    surgery: SurgeryConfig | None = None
    heads: HeadsConfig = HeadsConfig()
    losses: LossesConfig = LossesConfig()
    gradient: Literal["plain", "prograd"] = "plain"
    averaging: AveragingConfig | None = None

    @field_validator("weights", "heads", mode="before")
    @classmethod
    def _none_of_them(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _compatible(self) -> MethodConfig:
        reason = next(self._conflicts(), None)
        if reason:
            raise ValueError(reason)
        return self

    def _conflicts(self) -> Iterator[str]:
        """Why its parts do not fit together."""
        losses = {key: part for key, part in self.losses.parts().items() if isinstance(part, LossConfig)}
        if self.trainable and not losses:
            yield "there is something to learn but no loss to learn it with"
        elif self.trainable and not any(loss.reaches(self) for loss in losses.values()):
            seen = ", ".join(f"{key} looks at the {loss.sees} tower alone" for key, loss in losses.items())
            yield (
                f"no loss reaches what is learned: {seen} (add losses.cross_entropy or losses.logit_anchor)"
            )
        for part in self.parts().values():
            yield from part.conflicts(self)

    def parts(self) -> dict[str, Part]:
        """The parts there are, by their dotted keys such as ``prompts`` or ``heads.cache``."""
        found: dict[str, Part] = {}
        for key, value in self:
            if isinstance(value, Part):
                found[key] = value
            elif isinstance(value, Group):
                found |= {f"{key}.{name}": part for name, part in value.parts().items()}
        return found

    @property
    def prompting(self) -> PromptConfig | None:
        """The part that puts learned tokens into the towers, of whatever kind."""
        return next((part for part in self.parts().values() if isinstance(part, PromptConfig)), None)

    @property
    def trainable(self) -> bool:
        """Whether there is anything to learn by gradient."""
        return any(part.trainable for part in self.parts().values())

    @property
    def searches(self) -> bool:
        """Whether settings are chosen on validation photos."""
        return any(part.searches for part in self.parts().values())

    @property
    def conditional(self) -> bool:
        """Whether the class features depend on the image."""
        return any(part.per_image for part in self.parts().values())

    @property
    def compares(self) -> frozenset[str]:
        """What of the frozen model a training step needs: ``text``, ``image``, ``states``."""
        guide = {"text", "image"} if self.gradient == "prograd" else set[str]()
        return frozenset(guide).union(*(part.compares for part in self.parts().values()))

    def learns(self, tower: TowerName) -> bool:
        """Whether training changes the features of a tower."""
        return any(part.learns(tower) for part in self.parts().values())

    def enters(self, tower: TowerName) -> bool:
        """Whether it needs a tower whose blocks are known."""
        return any(part.enters(tower) for part in self.parts().values())


class TrainingConfig(Table):
    """The optimisation: cosine decay after constant warm-up epochs.

    Attributes:
        optimiser: ``sgd`` with momentum, ``adam`` or ``adamw``.
        eps: Epsilon of Adam, added to the root of the second moment.
        schedule: Whether the learning rate changes with every epoch or with every step.
        iterations: Steps of the whole run in place of epochs.
        final_lr: Learning rate at the end of the cosine.
        clip_norm: Longest gradient of all learned tensors together; None leaves it as it is.
        crop: Areas of the random crops of training images.
        flip: Probability that a training image is mirrored.
        keep_last: Whether an epoch's last batch is trained on where it is incomplete.
    """

    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    eps: Annotated[float, Field(gt=0)] = 1e-8
    schedule: Literal["epoch", "step"] = "epoch"
    iterations: PositiveInt | None = None
    epochs: Annotated[int, Field(ge=0)] = 10
    batch: PositiveInt = 4
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.0035
    final_lr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Ratio = 5e-4
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    warmup_lr: Annotated[float, Field(ge=0)] = 1e-5
    crop: Areas = later((0.08, 1.0))
    flip: Annotated[float, Strict(), Field(ge=0, le=1)] = later(0.5)
    keep_last: bool = later(False)

    def idle(self, learning: bool) -> frozenset[str]:
        """Its settings that have no effect, in a method that learns by steps or one that does not."""
        if not (learning and self.epochs):
            return frozenset(type(self).model_fields) - {"epochs"}
        idle = {"momentum" if self.optimiser != "sgd" else "eps"}
        return frozenset(idle if self.warmup_epochs else idle | {"warmup_lr"})


class Recipe(MethodConfig):
    """A method with its hyper-parameters, in the form of one TOML file.

    Attributes:
        source: Where the hyper-parameters come from.
        training: The optimisation.
    """

    source: str = ""
    training: TrainingConfig = TrainingConfig()
