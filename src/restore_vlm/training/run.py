"""One training run from a request: data, backbone, method, folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from torch import Tensor

from restore_vlm.backbone import Backbone, load_backbone, pick_device
from restore_vlm.backbone.loading import TINY
from restore_vlm.data import (
    Dataset,
    Images,
    Item,
    Validation,
    check,
    load_dataset,
    published,
    same_content,
    sample,
    select_classes,
    short_classes,
    train_transform,
    validation_photos,
)
from restore_vlm.data.catalogue import recognise
from restore_vlm.errors import UserError
from restore_vlm.measure.probe import Probe
from restore_vlm.method import PromptedModel, Recipe, choose_recipe, chooses_depth, load_recipe
from restore_vlm.method.heads import Choice
from restore_vlm.runtime.files import write_json
from restore_vlm.runtime.precision import Precision, resolve_precision
from restore_vlm.runtime.processes import World, join
from restore_vlm.runtime.tensors import write_tensors
from restore_vlm.training.fitting import fit_heads, tune_heads
from restore_vlm.training.loop import OnShift, OnStep, Trainer, share_of_batch
from restore_vlm.training.run_folder import RunFolder

FORMAT = 1
PUBLISHED_BLOCKS = 12
"""Of each tower of ViT-B/16, for which prompt depths are published."""
PROBED = 16
"""Training images on which feature shift is logged."""


class RunConfig(BaseModel):
    """Everything a run is asked for.

    Attributes:
        data: Image folder, manifest or benchmark folder.
        names: File of readable class names, if any.
        method: A bundled method, a TOML file or a recipe made in Python.
        recipe: The method's recipe used; ``auto`` takes the backbone's own where there is one, else what
            the method has for such a training, see :func:`restore_vlm.method.choose_recipe`.
        settings: ``key=value`` overrides of the recipe.
        backbone: See :func:`restore_vlm.backbone.load_backbone`.
        classes: ``all``, ``base``, ``novel`` or a file of class names.
        shots: Training images per class; None takes all.
        seed: Of sampling, initialisation and order.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        device: None picks the best.
        skip_bad_images: Whether to go on without unreadable images.
        log_shift: Whether to log feature shift before training and after every epoch.
        validation: Share of each class's training images to hold back for validation where there are
            no others, see :func:`restore_vlm.data.validation_photos`; None is no validation at all.
    """

    model_config = ConfigDict(extra="forbid")

    data: str
    names: str | None = None
    method: str | Recipe = "restore"
    recipe: str = "auto"
    settings: tuple[str, ...] = ()
    backbone: str = TINY
    classes: str = "all"
    shots: int | None = 16
    seed: NonNegativeInt = 1
    precision: Precision = "auto"
    device: str | None = None
    skip_bad_images: bool = False
    log_shift: bool = False
    validation: Annotated[float, Field(gt=0, lt=1)] | None = None


@dataclass
class Progress:
    """How a run tells what it is doing; every callback may be left out.

    Attributes:
        say: A sentence worth reading (warnings, what was scaled or skipped).
        checked: Images checked so far, and of how many.
        fitted: Images encoded so far for what is fitted before training, and of how many.
        compared: Images encoded so far for the comparison after training, and of how many.
        on_step: Training steps.
        on_shift: Feature shift, where it is logged.
    """

    say: Callable[[str], None] = lambda text: None
    checked: Callable[[int, int], None] = lambda done, total: None
    fitted: Callable[[int, int], None] = lambda done, total: None
    compared: Callable[[int, int], None] = lambda done, total: None
    on_step: OnStep = lambda done, total, metrics: None
    on_shift: OnShift = lambda line: None


def resolve_recipe(config: RunConfig) -> tuple[Recipe, str]:
    """The method with all hyper-parameters, and the name of the recipe they came from."""
    name = config.recipe
    if name == "auto":
        place = Path(config.data).expanduser()
        entry = recognise(place)
        name = choose_recipe(
            config.method,
            ["base_to_novel"] if config.classes in ("base", "novel") else ["few_shot"],
            entry.name if entry else place.stem,
            config.shots,
            config.backbone,
        )
    return load_recipe(config.method, name, config.settings), name


def fit_depth(
    recipe: Recipe, backbone: Backbone, published: bool, progress: Progress
) -> tuple[Recipe, dict[str, int]]:
    """Fits the prompt depth J of a recipe to a backbone, and says so.

    A published J counts blocks of ViT-B/16, which has 12 in both towers: where the prompted towers
    have fewer it becomes ceil(J x blocks / 12), the smaller of them counting. A J chosen for the backbone at
    hand stays; more than it has blocks means all of them.

    Returns:
        The recipe, and what was scaled: ``recipe``, ``blocks`` and ``depth``; empty if nothing was.
    """
    if recipe.prompts is None:
        return recipe, {}
    depth = recipe.prompts.depth
    blocks = min(t.depth for t in backbone.entered(recipe.prompts.towers, "Prompts cannot enter"))
    fitting = min(depth, blocks)
    if published and blocks < PUBLISHED_BLOCKS:
        fitting = min(fitting, math.ceil(depth * blocks / PUBLISHED_BLOCKS))
    if fitting == depth:
        return recipe, {}
    if published:
        progress.say(
            f"Prompt depth {depth} of the recipe, made for {PUBLISHED_BLOCKS} blocks, is scaled to {fitting} "
            f"of the {blocks} blocks of {backbone.name}."
        )
    else:
        progress.say(
            f"Prompt depth {depth} is more than {backbone.name} has: all {blocks} blocks get prompts."
        )
    prompts = recipe.prompts.model_copy(update={"depth": fitting})
    fitted = recipe.model_copy(update={"prompts": prompts})
    return fitted, {"recipe": depth, "blocks": blocks, "depth": fitting} if published else {}


def prepare_data(config: RunConfig, progress: Progress) -> tuple[Dataset, dict[Path, str], Validation | None]:
    """Loads, checks, samples and selects.

    Returns:
        The data set, the sha256 of its images, and where they are asked for the validation photos.

    Raises:
        UserError: For any defect of the data that training should not paper over.
    """
    full = load_dataset(config.data, Path(config.names) if config.names else None)
    total = len(full.train) + len(full.val) + len(full.test)
    full, report = check(full, config.skip_bad_images, lambda done: progress.checked(done, total))
    if report.bad:
        progress.say(f"Going on without {len(report.bad)} unreadable images.")
    short = short_classes(full, config.shots) if config.shots else {}
    if short:
        name, count = next(iter(short.items()))
        progress.say(
            f"{len(short)} classes have fewer than {config.shots} training images (such as {name} with "
            f"{count}); all of theirs are used."
        )
    few = sample(full, config.shots, config.seed)
    if shared := same_content(few, report.hashes):
        a, b = shared[0]
        progress.say(
            f"{len(shared)} images are in both train and test (such as {a} and {b}); evaluation leaves "
            "out what was trained on."
        )
    if not few.train:
        raise UserError(f"{full.name} has no training images, it is for testing only; train on another.")
    classes = config.classes if config.classes in ("all", "base", "novel") else Path(config.classes)
    few, full = select_classes(few, classes), select_classes(full, classes)
    if config.validation is None:
        return few, report.hashes, None
    few, validation = validation_photos(
        full, few, config.shots, config.seed, report.hashes, config.validation, published(config.data)
    )
    if validation.held_back:
        held, before = validation.held_back, len(few.train) + validation.held_back
        progress.say(
            f"{held} of {before} training images are held back for validation; --validation none trains on "
            "all of them."
        )
    return few, report.hashes, validation


def build_model(recipe: Recipe, backbone: Backbone, classes: list[str], seed: int) -> PromptedModel:
    """Assembles a method on a backbone with its parts initialised from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PromptedModel(backbone, recipe, classes).to(backbone.device)


@dataclass(frozen=True)
class Trained:
    """What a run gives.

    Attributes:
        model: Holding the training classes.
        header: What is saved beside its weights.
        images: It was trained on.
        validation: Photos to compare it on, where they were asked for.
    """

    model: PromptedModel
    header: dict[str, Any]
    images: list[Item]
    validation: Validation | None


def run(config: RunConfig, out: Path | None = None, progress: Progress | None = None) -> Trained:
    """Trains, or finishes a run that was interrupted.

    Processes that a launcher has started share the run; the first one writes its folder.

    Args:
        config: The request.
        out: The run folder; None keeps everything in memory.
        progress: Callbacks.

    Raises:
        UserError: For bad input, a folder holding another run or being written to, a non-finite loss, or
            too little memory.
    """
    with ExitStack() as locks:
        try:
            return _run(config, RunFolder(out) if out else None, progress or Progress(), locks)
        except (RuntimeError, TypeError, MemoryError, OverflowError) as error:
            if not _too_large(error):
                raise
            raise UserError(
                f"The run asks for more than this machine can hold ({_first_line(error)}); lower "
                "training.batch or what the method makes large."
            ) from error


def _too_large(error: Exception) -> bool:
    """Whether memory, or the range of a number, was not enough; PyTorch has no class of its own for most."""
    if isinstance(error, MemoryError | OverflowError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in ("allocate memory", "overflow", "too large"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _run(config: RunConfig, folder: RunFolder | None, progress: Progress, locks: ExitStack) -> Trained:
    recipe, recipe_name = resolve_recipe(config)
    if config.recipe == "auto" and recipe_name not in ("default", config.backbone):
        progress.say(f"Recipe of {recipe.name} for this training: {recipe_name}.")
    device = pick_device(config.device)
    precision = resolve_precision(config.precision, device)
    world = join(device)
    data, hashes, validation = world.once(lambda: prepare_data(config, progress))
    if recipe.trainable:
        share_of_batch(recipe.training, len(data.train), world)
    backbone = load_backbone(config.backbone).to(device)
    if config.log_shift:
        backbone.entered("both", "Feature shift cannot be logged block by block in", "leave out --log-shift")
    published = not chooses_depth(config.method, recipe_name, config.settings)
    recipe, scaled = fit_depth(recipe, backbone, published, progress)
    model = build_model(recipe, backbone, data.classes, config.seed)
    header = {
        "format": FORMAT,
        "version": version("restore-vlm"),
        "backbone": config.backbone,
        "classes": data.classes,
        "recipe": recipe_name,
        "settings": list(config.settings),
        "method": recipe.model_dump(mode="json"),
        "scaled_depth": scaled or None,
    }
    if validation and recipe.searches:
        validation = validation.apart()
    choosing = validation.choosing if validation and recipe.searches else []
    if folder:
        request = config.model_dump(mode="json") | {"recipe": recipe_name, "precision": precision}
        resolved = {"run": request, "scaled_depth": scaled or None, "method": recipe.model_dump(mode="json")}
        seen = {str(i.path): hashes[i.path] for i in (*data.train, *choosing) if i.path in hashes}
        world.once(lambda: _claim(folder, resolved, device, seen, locks))
    choice = _start(model, data.train, config.seed, progress, world, choosing)
    if recipe.trainable and recipe.training.epochs:
        crops = train_transform(backbone.preprocess, recipe.training.crop, recipe.training.flip)
        images = Images(data.train, crops, seed=config.seed)
        probe = Probe.of(data.train, data.classes, backbone, PROBED) if config.log_shift else None
        trainer = Trainer(model, images, recipe.training, config.seed, precision, folder, world, probe)
        trainer.run(progress.on_step, progress.on_shift)
    choice = _choose(model, choosing, world) or choice
    if choice:
        progress.say(choice.sentence())
        header["method"] = load_recipe(recipe, settings=_as_settings(choice)).model_dump(mode="json")
        header["chosen"] = asdict(choice)
    if folder:
        world.once(lambda: write_tensors(folder.adapter, model.adapter_state(), header))
    return Trained(model, header, data.train, validation)


def _claim(
    folder: RunFolder,
    config: dict[str, Any],
    device: torch.device,
    images: dict[str, str],
    locks: ExitStack,
) -> None:
    locks.enter_context(folder.lock())
    folder.start(config, device)
    write_json(folder.images, images)


def _start(
    model: PromptedModel,
    items: list[Item],
    seed: int,
    progress: Progress,
    world: World,
    validation: list[Item],
) -> Choice | None:
    """Fits what is fitted before training, once; every process starts from the same numbers."""

    def first() -> tuple[dict[str, Tensor], Choice | None]:
        choice = fit_heads(model, items, seed, progress.fitted, validation)
        return model.adapter_state(), choice

    state, choice = world.once(first)
    if not world.main:
        model.load_state_dict(state, strict=False)
    return choice


def _choose(model: PromptedModel, validation: list[Item], world: World) -> Choice | None:
    """Chooses what is chosen after training, once; every process takes the same."""
    choice = world.once(lambda: tune_heads(model, validation))
    if choice:
        model.heads.take(choice)
    return choice


def _as_settings(choice: Choice) -> list[str]:
    return [f"{key}={value!r}" for key, value in choice.settings.items()]


def training_images(out: Path) -> dict[str, str]:
    """Path -> sha256 of the images a run was trained on or its settings were chosen on."""
    return RunFolder(out).read_images()
