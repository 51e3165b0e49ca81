"""What a method is made of: five parts, each validated on construction."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class PromptConfig(Part):
    """Learned tokens: in which towers, how deep, and whether the towers share them.

    Attributes:
        towers: Where the prompts are.
        coupled: Whether image tokens are a linear map of the text tokens (MaPLe, RESTORE).
        depth: Layers that get fresh prompts; more than the towers have means all of them.
        length: Tokens per layer.
        init: Words whose embeddings the layer-0 text context starts from; used where it has
            at least ``length`` words, else the context is random.
    """

    towers: Literal["text", "image", "both"] = "both"
    coupled: bool = False
    depth: PositiveInt = 9
    length: PositiveInt = 2
    init: str = "a photo of a"

    @model_validator(mode="after")
    def _coupled_needs_both(self) -> PromptConfig:
        if self.coupled and self.towers != "both":
            raise ValueError('coupled prompts need towers = "both"')
        return self


class SurgeryConfig(Part):
    """The residual correction f + r FFN(LN(f)) of each tower's feature.

    Attributes:
        text_ratio: r of the text tower.
        vision_ratio: r of the image tower.
        dynamic: Whether r grows once, after a third of the epochs, with the norm of the prompts.
        text_growth: Factor of that growth, text.
        vision_growth: Factor of that growth, vision.
    """

    text_ratio: Ratio = 0.05
    vision_ratio: Ratio = 0.05
    dynamic: bool = True
    text_growth: Ratio = 0.02
    vision_growth: Ratio = 0.005


class CrossEntropyConfig(Part):
    weight: Ratio = 1.0


class FeatureShiftConfig(Part):
    """L_fs.

    Attributes:
        weight: lambda.
        measure: ``prompt`` (input-free) or ``embedding`` (the definition).
    """

    weight: Ratio = 1.0
    measure: Literal["prompt", "embedding"] = "prompt"


class LossesConfig(Part):
    cross_entropy: CrossEntropyConfig | None = CrossEntropyConfig()
    feature_shift: FeatureShiftConfig | None = None


class AveragingConfig(Part):
    """Gaussian-weighted average of the epochs' weights (PromptSRC, arXiv 2307.06948).

    Attributes:
        mean: Epoch of the largest weight, counted from 1.
        std: Its spread in epochs.
    """

    mean: float = 15.0
    std: Annotated[float, Field(gt=0)] = 1.0


class MethodConfig(Part):
    """A method: prompts + surgery + losses + gradient rule + weight averaging.

    Attributes:
        name: What tables call it.
        template: Prompt of a class where no context is learned.
        gradient: ``plain``, or ``prograd``: where the loss gradient opposes that of the
            divergence from zero-shot, its component along it is removed (arXiv 2205.14865).
    """

    name: str
    template: str = "a photo of a {}."
    prompts: PromptConfig | None = None
    surgery: SurgeryConfig | None = None
    losses: LossesConfig = LossesConfig()
    gradient: Literal["plain", "prograd"] = "plain"
    averaging: AveragingConfig | None = None

    @model_validator(mode="after")
    def _compatible(self) -> MethodConfig:
        if self.template.count("{}") != 1 or self.template.count("{") != 1 or self.template.count("}") != 1:
            raise ValueError(f'template {self.template!r} needs one "{{}}", where the class name goes')
        if self.trainable and not any(part for _, part in self.losses):
            raise ValueError("there is something to learn but no loss to learn it with")
        if self.losses.feature_shift and (self.prompts is None or self.prompts.towers != "both"):
            raise ValueError(
                "feature-shift consistency compares the towers: it needs prompts in both "
                '(set prompts.towers = "both", or losses.feature_shift = none)'
            )
        return self

    @property
    def trainable(self) -> bool:
        """Whether there is anything to learn."""
        return self.prompts is not None or self.surgery is not None


class TrainingConfig(Part):
    """The optimisation: SGD with momentum, cosine per epoch after constant warm-up epochs."""

    epochs: Annotated[int, Field(ge=0)] = 10
    batch: PositiveInt = 4
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.0035
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Ratio = 5e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    warmup_lr: Annotated[float, Field(ge=0)] = 1e-5


class Recipe(MethodConfig):
    """A method with its hyper-parameters, in the form of one TOML file.

    Attributes:
        source: Where the hyper-parameters come from.
        training: The optimisation.
    """

    source: str = ""
    training: TrainingConfig = TrainingConfig()
