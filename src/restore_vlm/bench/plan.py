"""From a request to the runs it needs: the fewest that fill its tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from restore_vlm.backbone import pick_device
from restore_vlm.backbone.loading import TINY
from restore_vlm.bench.datasets import DataRoot, Subset
from restore_vlm.bench.spec import Spec, address, backbone_identity, learns, recipe_fields
from restore_vlm.errors import UserError
from restore_vlm.evaluation.protocol import Protocol, Trial
from restore_vlm.evaluation.protocols import get_protocol
from restore_vlm.method import Recipe, choose_recipe, load_recipe, recipes
from restore_vlm.runtime.precision import resolve_precision

TEMPLATE = Recipe.model_fields["template"].default


@dataclass(frozen=True)
class Request:
    """What a grid is asked for, apart from its trials.

    Attributes:
        methods: Bundled ones or TOML files.
        backbone: See :func:`restore_vlm.backbone.load_backbone`.
        recipe: ``auto`` chooses, see :func:`restore_vlm.method.choose_recipe`; else one by name.
        settings: ``key=value`` for every method that has the part, ``METHOD:key=value`` for one.
        precision: Of training.
        device: None picks the best.
    """

    methods: tuple[str, ...]
    backbone: str = TINY
    recipe: str = "auto"
    settings: tuple[str, ...] = ()
    precision: str = "auto"
    device: str | None = None

    def conditions(self) -> dict[str, Any]:
        """What all results of one grid share."""
        fields = asdict(self)
        return {name: fields[name] for name in ("backbone", "recipe", "settings", "precision")}


@dataclass(frozen=True)
class Test:
    """One test of a run: the images, and the hand-written prompts where they are the dataset's own.

    Attributes:
        images: To test on.
        template: None is that of training.
        ensemble: None is that of training.
    """

    images: Subset
    template: str | None = None
    ensemble: bool | str | tuple[str, ...] | None = None

    @property
    def words(self) -> dict[str, Any]:
        """What of the method's hand-written prompts is another than in training."""
        fields = {"template": self.template, "ensemble": self.ensemble}
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def address(self) -> str:
        return address({"images": self.images.digest, "template": None, **self.words})


@dataclass
class Job:
    """One run: at most one training, and its tests.

    Attributes:
        spec: What its folder is named after.
        label: For people.
        method: As requested, with ``recipe`` and ``settings`` as resolved for this run.
        train: None where nothing is learned.
        validation: To choose settings on, where the method does and the dataset has some.
        drawn: Where ``train`` was drawn from: the dataset's place, shots and classes.
        tests: By address.
    """

    spec: Spec
    label: str
    method: str
    recipe: str
    settings: tuple[str, ...]
    backbone: str
    device: str | None
    train: Subset | None
    validation: Subset | None
    drawn: tuple[Path, int | None, str]
    tests: dict[str, Test] = field(default_factory=dict)

    def lacking(self, result: Callable[[str], dict[str, Any] | None]) -> dict[str, Test]:
        """The tests to compute: those not done, and those whose template is not known.

        Before results recorded it, a test without a template of its own was asked in that of the
        test before it.

        Args:
            result: What is stored of a test.
        """
        mixed = any(test.template not in (None, self.spec.recipe["template"]) for test in self.tests.values())
        found = {address: result(address) for address in self.tests}
        return {
            address: test
            for address, test in self.tests.items()
            if (stored := found[address]) is None
            or (mixed and test.template is None and "template" not in stored)
        }


@dataclass(frozen=True)
class ResultKey:
    """Which result of a grid: of what, and where it is found.

    Attributes:
        protocol: Its name.
        method: What tables call it.
        source: Dataset trained on.
        dataset: Dataset tested on.
        part: Which of its classes.
        shots: None is all.
        seed: Of the trial.
        run: Address.
        test: Address.
    """

    protocol: str
    method: str
    source: str
    dataset: str
    part: str
    shots: int | None
    seed: int
    run: str
    test: str

    @property
    def place(self) -> tuple[Any, ...]:
        """Everything but what is found there."""
        return (self.method, self.source, self.dataset, self.part, self.shots, self.seed)

    @property
    def label(self) -> str:
        where = _tested(self.dataset, self.part)
        where = where if self.dataset == self.source else f"{self.source} to {where}"
        return f"{self.method}, {where}{_shots(get_protocol(self.protocol), self.shots)}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """The runs of a request, those without training first, and the results they give."""

    jobs: list[Job]
    keys: list[ResultKey]


def make_plan(trials: Sequence[Trial], request: Request, data: DataRoot) -> Plan:
    """Resolves every trial with every method; what several of them need becomes one run.

    Raises:
        UserError: For an unknown method, recipe, setting, device or dataset, or data that cannot
            serve the protocol.
    """
    precision = resolve_precision(request.precision, pick_device(request.device))  # type: ignore[arg-type]
    request = replace(request, precision=precision)
    _check_settings(request)
    jobs: dict[str, Job] = {}
    keys = []
    for trial in trials:
        for method in request.methods:
            for job, key in _runs(trial, method, request, data):
                jobs.setdefault(key.run, job).tests |= job.tests
                keys.append(key)
    return Plan(sorted(jobs.values(), key=lambda job: job.train is not None), keys)


def _runs(trial: Trial, method: str, request: Request, data: DataRoot) -> Iterator[tuple[Job, ResultKey]]:
    """The run behind each result of a trial."""
    for test in trial.tests:
        name, settings, chosen = _resolved(trial, method, request, trial.dataset)
        if not learns(chosen):
            name, settings, chosen = _resolved(trial, method, request, test.dataset)
        own = _follows_dataset(chosen, settings)
        drawn = (trial.shots, trial.seed)
        train = data.train(trial.dataset, trial.part, *drawn) if learns(chosen) else None
        validation = data.validation(trial.dataset, trial.part, *drawn) if chosen.searches else None
        elsewhere = test.dataset != trial.dataset
        images = data.test(test.dataset, test.part, None if elsewhere else drawn)
        home = data.template(trial.dataset if train else test.dataset) if own else None
        used = (*settings, f"template={json.dumps(home)}") if home else settings
        recipe = load_recipe(method, name, used)
        spec = Spec(
            recipe_fields(recipe, len(train.items) if train else None),
            backbone_identity(request.backbone),
            request.precision,
            trial.seed if train else None,
            (train or images).digest,
            validation.digest if validation else None,
        )
        shots = _shots(trial.protocol, trial.shots)
        where = f"{trial.dataset}{shots}, seed {trial.seed}" if train else _tested(test.dataset, test.part)
        label = f"{recipe.name}, {where}"
        what = Test(images)
        if own and train and elsewhere:
            theirs = _resolved(trial, method, request, test.dataset)[2].ensemble
            ensemble = None if theirs == recipe.ensemble else theirs
            what = Test(images, data.template(test.dataset), ensemble)
        job = Job(
            spec,
            label,
            method,
            name,
            used,
            request.backbone,
            request.device,
            train,
            validation,
            (data.place(trial.dataset), trial.shots, trial.part),
            {what.address: what},
        )
        yield (
            job,
            ResultKey(
                trial.protocol.name, recipe.name, trial.dataset, test.dataset, test.part, trial.shots,
                trial.seed, spec.address, what.address,
            ),
        )  # fmt: skip


def _resolved(
    trial: Trial, method: str, request: Request, dataset: str
) -> tuple[str, tuple[str, ...], Recipe]:
    """The name of the recipe for a dataset, the settings that concern the method, and both resolved."""
    name = request.recipe
    if name == "auto":
        name = choose_recipe(method, trial.protocol.recipes, dataset, trial.shots, request.backbone)
    elif not set(name.split("+")) <= set(recipes(method)) and not learns(load_recipe(method)):
        name = "default"
    settings = _settings(method, request, load_recipe(method, name))
    return name, settings, load_recipe(method, name, settings)


def _shots(protocol: Protocol, shots: int | None) -> str:
    return f", {shots or 'all'} shots" if protocol.varies_shots else ""


def _tested(dataset: str, part: str) -> str:
    return dataset if part == "all" else f"{dataset}, {part}"


def _settings(method: str, request: Request, recipe: Recipe) -> tuple[str, ...]:
    """The settings of one method: those of its own, and the common ones about parts that it has."""
    split = [
        (owner, text) for owner, text in map(_owned, request.settings) if owner in (None, *_called(method))
    ]
    return tuple(text for owner, text in split if owner or _concerns(text.partition("=")[0], recipe))


def _owned(setting: str) -> tuple[str | None, str]:
    """``METHOD:key=value`` taken apart; None where no method is named."""
    key, equals, value = setting.partition("=")
    owner, colon, rest = key.rpartition(":")
    return (owner, rest + equals + value) if colon else (None, setting)


def _called(method: str) -> set[str]:
    return {method, Path(method).stem}


def _concerns(key: str, recipe: Recipe) -> bool:
    """Whether a setting is about a part of the method; one that learns nothing has but its prompt."""
    if not learns(recipe):
        return key.strip() in ("template", "ensemble", "raw_ensemble")
    part: Any = recipe
    for name in key.strip().split(".")[:-1]:
        part = getattr(part, name, recipe)  # a key that is nowhere is for load_recipe to refuse
    return part is not None


def _check_settings(request: Request) -> None:
    recipes_of = {method: load_recipe(method) for method in request.methods}
    names = [recipe.name for recipe in recipes_of.values()]
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice or len(names) < len(request.methods):
        raise UserError(f"Two methods have the same name {twice or ''}; name each once.")
    for setting in request.settings:
        owner, text = _owned(setting)
        if owner and not any(owner in _called(m) for m in request.methods):
            raise UserError(f"--set {setting!r} is for {owner!r}, which is not among --methods.")
        if not owner and not any(_concerns(text.partition("=")[0], r) for r in recipes_of.values()):
            raise UserError(f"--set {setting!r} is about a part that no method of the grid has.")


def _follows_dataset(recipe: Recipe, settings: Sequence[str]) -> bool:
    """Whether the hand-written prompt is each dataset's own: not where the method fixes one itself."""
    fixed = recipe.fixed_template or (recipe.prompts is not None and recipe.prompts.towers == "image")
    return not fixed and recipe.template == TEMPLATE and not any(s.startswith("template") for s in settings)
