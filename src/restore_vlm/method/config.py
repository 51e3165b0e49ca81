"""What a method is made of: five parts, each validated on construction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    Strict,
    field_validator,
    model_validator,
)

from restore_vlm.method.templates import checked_ensemble, checked_template

Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bound = Annotated[float, Field(gt=0.1, allow_inf_nan=False)]


def _areas(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1] <= 1:
        raise ValueError("crops are given by their least and largest share of the area, such as [0.08, 1.0]")
    return value


Areas = Annotated[tuple[float, float], AfterValidator(_areas)]
"""The least and the largest share of an image's area that a random crop has."""


def _later(default: Any) -> Any:
    """The default of a key that came later: it is what files without the key mean.

    It is left out where that is its value, so that what is written of a recipe, the configurations of
    runs and the addresses of benchmark runs included, stays the same where the numbers do.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


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
        class_position: Where the class name stands among the text context tokens (CoOp).
        per_class: Whether every training class has its own layer-0 text context (CoOp).
        conditional: Whether a small network shifts the layer-0 text context by the image's
            feature (CoCoOp).
    """

    towers: Literal["text", "image", "both"] = "both"
    coupled: bool = False
    depth: PositiveInt = 9
    length: PositiveInt = 2
    init: str = "a photo of a"
    class_position: Literal["end", "middle", "front"] = "end"
    per_class: bool = False
    conditional: bool = False

    @model_validator(mode="after")
    def _compatible(self) -> PromptConfig:
        if self.coupled and self.towers != "both":
            raise ValueError('coupled prompts need towers = "both"')
        textual = self.per_class or self.conditional or self.class_position != "end"
        if self.towers == "image" and textual:
            raise ValueError(
                "class_position, per_class and conditional are about text prompts: there are none"
            )
        if self.coupled and (self.per_class or self.conditional):
            raise ValueError(
                "coupled image prompts are a map of the text prompts, so those can depend neither on the "
                "class nor on the image; set coupled = false"
            )
        if self.per_class and self.conditional:
            raise ValueError("context is either per class or conditional on the image, not both")
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


class TextAnchorConfig(Part):
    """Keeps the class features near those of the hand-written prompts.

    Attributes:
        weight: 8 in KgCoOp (arXiv 2303.13283), 25 in PromptSRC (arXiv 2307.06948).
        distance: ``cosine``, 1 - mean cosine (KgCoOp), or ``l1``, mean absolute difference of
            unit features (PromptSRC).
    """

    weight: Ratio = 8.0
    distance: Literal["cosine", "l1"] = "cosine"


class ImageAnchorConfig(Part):
    """Keeps the image features near the frozen ones (PromptSRC, arXiv 2307.06948).

    Attributes:
        weight: 10 in PromptSRC.
        distance: As for the text.
    """

    weight: Ratio = 10.0
    distance: Literal["cosine", "l1"] = "l1"


class LogitAnchorConfig(Part):
    """KL(zero-shot || tuned), summed and divided by the number of logits (PromptSRC)."""

    weight: Ratio = 1.0


class LossesConfig(Part):
    cross_entropy: CrossEntropyConfig | None = CrossEntropyConfig()
    feature_shift: FeatureShiftConfig | None = None
    text_anchor: TextAnchorConfig | None = None
    image_anchor: ImageAnchorConfig | None = None
    logit_anchor: LogitAnchorConfig | None = None


class LoraConfig(Part):
    """Low-rank updates W + (alpha / rank) B A of q, k and v in every block (CLIP-LoRA, arXiv 2405.18541)."""

    towers: Literal["text", "image", "both"] = "both"
    rank: PositiveInt = 2
    alpha: Annotated[float, Field(gt=0)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25


class FinetuneConfig(Part):
    """Every weight of a tower is learned."""

    towers: Literal["text", "image", "both"] = "image"


class WeightsConfig(Part):
    """Changes to the backbone's own weights; at most one kind."""

    lora: LoraConfig | None = None
    finetune: FinetuneConfig | None = None


class ClipAdapterConfig(Part):
    """(1 - ratio) f + ratio A(f) on the image feature, A a bottleneck of two layers (arXiv 2110.04544)."""

    ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    reduction: PositiveInt = 4


class TaskResidualConfig(Part):
    """t + alpha x, one learned x per training class, on the text feature (TaskRes, arXiv 2211.10277)."""

    alpha: Ratio = 0.5


class CacheConfig(Part):
    """Tip-Adapter's cache of training features (arXiv 2207.09519).

    Attributes:
        alpha: Weight of the cache's logits.
        beta: Their sharpness.
        views: Random crops averaged per training image.
        crop: Their areas.
        learned: Whether the keys are learned (Tip-Adapter-F).
        search: Largest beta and alpha of the grid that is searched on validation photos, where there
            are any; None keeps alpha and beta as they are. The released code searches up to 7 and 3.
    """

    alpha: Ratio = 1.0
    beta: Ratio = 5.5
    views: PositiveInt = 10
    crop: Areas = _later((0.5, 1.0))
    learned: bool = False
    search: tuple[Bound, Bound] | None = (7.0, 3.0)


class LinearProbeConfig(Part):
    """Logistic regression on the frozen image features (arXiv 2103.00020).

    Attributes:
        c: Inverse of the l2 regularisation, for features of unit length: the published 0.316 for
            features of length 10, about that of CLIP's.
        search: Whether c is searched on validation photos, where there are any.
    """

    c: Annotated[float, Field(gt=0)] = 31.6
    search: bool = True


class HeadsConfig(Part):
    """What happens to features and logits after the towers."""

    clip_adapter: ClipAdapterConfig | None = None
    task_residual: TaskResidualConfig | None = None
    cache: CacheConfig | None = None
    linear_probe: LinearProbeConfig | None = None


class AveragingConfig(Part):
    """One set of weights out of several.

    Attributes:
        kind: ``gaussian``, a Gaussian-weighted average of the epochs' weights (PromptSRC, arXiv
            2307.06948), or ``interpolation``, a point between the weights before and after
            training (WiSE-FT, arXiv 2109.01903).
        mean: Epoch of the largest weight, counted from 1 (gaussian).
        std: Its spread in epochs (gaussian).
        alpha: Share of the trained weights (interpolation).
    """

    kind: Literal["gaussian", "interpolation"] = "gaussian"
    mean: float = 15.0
    std: Annotated[float, Field(gt=0)] = 1.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5


class MethodConfig(Part):
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
    raw_ensemble: bool = _later(False)
    fixed_template: bool = _later(False)
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
        reason = next((text for broken, text in _conflicts(self) if broken), None)
        if reason:
            raise ValueError(reason)
        return self

    @property
    def trainable(self) -> bool:
        """Whether there is anything to learn by gradient."""
        heads, weights = self.heads, self.weights
        learned_heads = heads.clip_adapter or heads.task_residual or (heads.cache and heads.cache.learned)
        return any((self.prompts, self.surgery, weights.lora, weights.finetune, learned_heads))

    def learns(self, tower: Literal["text", "image"]) -> bool:
        """Whether training changes the features of a tower."""
        head = self.heads.task_residual if tower == "text" else self.heads.clip_adapter
        parts = self.prompts, self.weights.lora, self.weights.finetune
        return bool(self.surgery or head or any(p and p.towers in (tower, "both") for p in parts))

    @property
    def searches(self) -> bool:
        """Whether settings are chosen on validation photos."""
        cache, probe = self.heads.cache, self.heads.linear_probe
        return bool((cache and cache.search) or (probe and probe.search))

    @property
    def conditional(self) -> bool:
        """Whether the class features depend on the image."""
        return self.prompts is not None and self.prompts.conditional


def _conflicts(method: MethodConfig) -> Iterator[tuple[bool, str]]:
    """Parts that do not fit together, each with the reason."""
    losses, prompts, weights = method.losses, method.prompts, method.weights
    yield (
        method.trainable and not any(part for _, part in losses),
        "there is something to learn but no loss to learn it with",
    )
    yield (
        method.trainable
        and {name for name, part in losses if part is not None} <= {"text_anchor", "image_anchor"}
        and not (losses.text_anchor and method.learns("text"))
        and not (losses.image_anchor and method.learns("image")),
        "no loss reaches what is learned: text_anchor looks at the text tower alone, image_anchor at the "
        "image tower (add losses.cross_entropy or losses.logit_anchor)",
    )
    yield (
        losses.feature_shift is not None and (prompts is None or prompts.towers != "both"),
        "feature-shift consistency compares the towers: it needs prompts in both "
        '(set prompts.towers = "both", or losses.feature_shift = none)',
    )
    yield (
        method.conditional and losses.text_anchor is not None,
        "conditional prompts have no fixed text features to anchor (set losses.text_anchor = none)",
    )
    yield (
        method.conditional and losses.feature_shift is not None,
        "conditional prompts have no fixed text tower to measure the shift of "
        "(set prompts.conditional = false, or losses.feature_shift = none)",
    )
    yield (
        weights.lora is not None and weights.finetune is not None,
        "weights are either fine-tuned or given low-rank updates, not both",
    )
    yield (
        method.heads.linear_probe is not None and method.trainable,
        "a linear probe is fitted to frozen features: nothing else can be learned beside it",
    )
    yield (
        method.averaging is not None and not method.trainable,
        "there are no learned weights to average",
    )


class TrainingConfig(Part):
    """The optimisation: cosine decay after constant warm-up epochs.

    Attributes:
        optimiser: ``sgd`` with momentum, ``adam`` or ``adamw``.
        eps: Adam's.
        schedule: Whether the learning rate changes with every epoch or with every step.
        iterations: Steps of the whole run in place of epochs.
        final_lr: Where the cosine ends.
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
    crop: Areas = _later((0.08, 1.0))
    flip: Annotated[float, Strict(), Field(ge=0, le=1)] = _later(0.5)
    keep_last: bool = _later(False)


class Recipe(MethodConfig):
    """A method with its hyper-parameters, in the form of one TOML file.

    Attributes:
        source: Where the hyper-parameters come from.
        training: The optimisation.
    """

    source: str = ""
    training: TrainingConfig = TrainingConfig()
