"""An adapted model to keep: fit it, ask it, save it, load it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from PIL import Image
from pydantic import BaseModel, PositiveInt, ValidationError
from torch import Tensor

from restore_vlm.backbone import load_backbone, pick_device
from restore_vlm.data import (
    BadImage,
    Dataset,
    Item,
    check,
    load_dataset,
    open_image,
    select_classes,
    test_transform,
)
from restore_vlm.errors import UserError
from restore_vlm.evaluation import Comparison, Evaluation, compare, evaluate
from restore_vlm.measure import Embeddings, Measurement, Probe, measure
from restore_vlm.method import PromptedModel, Recipe
from restore_vlm.runtime.files import DamagedFile, read_json, write_json
from restore_vlm.runtime.processes import join
from restore_vlm.runtime.tensors import alike, read_tensors, write_tensors
from restore_vlm.training import Progress, RunConfig, RunFolder, run, training_images
from restore_vlm.training.run import FORMAT

Photo = str | Path | Image.Image
BATCH = 64
REPEAT = "the same restore-vlm train writes it again"


@dataclass(frozen=True)
class Prediction:
    """The classes of one photo, most probable first.

    Attributes:
        classes: Names.
        probabilities: Of those names, summing to 1 over all classes asked about.
    """

    classes: list[str]
    probabilities: list[float]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0]


class Header(BaseModel):
    """What is read back of the header of ``adapter.safetensors``."""

    format: PositiveInt
    version: str
    backbone: str
    classes: Annotated[list[Annotated[str, MinLen(1)]], MinLen(1)]
    method: dict[str, Any]


class Classifier:
    """A CLIP adapted to some classes that can be asked about any.

    Args:
        model: Holding the training classes.
        header: What :meth:`save` writes beside the weights.
        folder: Where it was loaded from, if it was.

    Attributes:
        classes: Of training.
        validation: How it compares with zero-shot and a linear probe on validation photos; None where
            there were none or it was not asked for.
    """

    def __init__(self, model: PromptedModel, header: dict[str, Any], folder: Path | None = None) -> None:
        self.model, self.header, self.folder = model.eval(), header, folder
        self.validation: Comparison | None = None
        self.classes: list[str] = header["classes"]

    @torch.inference_mode()
    def predict(
        self,
        images: Photo | Sequence[Photo],
        classes: Sequence[str] | None = None,
        top: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Tells what photos show.

        Args:
            images: One or more paths or PIL images.
            classes: Names to choose from, also ones never trained on; None for those of training.
            top: How many classes to return; None for all.
            progress: Called with the number of photos done.

        Returns:
            One prediction per photo.

        Raises:
            UserError: If a photo cannot be read, or a class is named twice or not at all.
        """
        names = self.classes if classes is None else _class_list(classes)
        photos = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        if self.model.classnames != names:
            self.model.set_classes(names)
        device = self.model.backbone.device
        score, out = self.model.scorer(), []
        for batch in self.batches(photos):
            probability = score(batch.to(device)).softmax(-1).cpu()
            values, index = probability.topk(min(top or len(names), len(names)))
            for row, order in zip(values.tolist(), index.tolist(), strict=True):
                out.append(Prediction([names[i] for i in order], row))
            if progress:
                progress(len(out))
        return out

    def batches(self, photos: Sequence[Photo]) -> Iterator[Tensor]:
        """(b, 3, h, w) batches of photos under the backbone's own preprocessing.

        Raises:
            UserError: If a photo cannot be read.
        """
        transform = test_transform(self.model.backbone.preprocess)
        for start in range(0, len(photos), BATCH):
            yield torch.stack([transform(_read(p)) for p in photos[start : start + BATCH]])

    def evaluate(
        self,
        data: str | Path | Dataset,
        classes: str | Path | Sequence[str] = "all",
        skip_bad_images: bool = False,
        progress: Progress | None = None,
        tested: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """Tests on the labelled photos of ``data`` that it was not trained on.

        Where the data has a split, its test part (or, without one, its val part); otherwise every
        image. Images are compared with those of training by content, not by name.

        Args:
            data: Anything :func:`restore_vlm.fit` takes, or a loaded data set.
            classes: ``all``, ``base``, ``novel``, a file of names, or names.
            skip_bad_images: Whether to go on without unreadable images.
            progress: Callbacks for what is worth saying and for the images checked.
            tested: Called with images tested and of how many.

        Raises:
            UserError: If there is nothing to test on, or the data has defects.
        """
        items, names = self.to_test(data, classes, skip_bad_images, progress)
        return evaluate(self.model, items, names, progress=lambda done: tested(done, len(items)))

    def to_test(
        self,
        data: str | Path | Dataset,
        classes: str | Path | Sequence[str] = "all",
        skip_bad_images: bool = False,
        progress: Progress | None = None,
        others: Sequence[Path] = (),
    ) -> tuple[list[Item], list[str]]:
        """The labelled photos that :meth:`evaluate` tests on, and their class names.

        What the runs in the folders ``others`` were trained on is left out too, so that all of them can
        be asked about the same photos.
        """
        progress = progress or Progress()
        full = data if isinstance(data, Dataset) else load_dataset(data)
        chosen = select_classes(full, classes)
        candidates = chosen.test or chosen.val if full.split else chosen.train
        chosen = replace(chosen, train=[], val=[], test=candidates)
        count = len(chosen.test)
        chosen, report = join(self.model.backbone.device).once(
            lambda: check(chosen, skip_bad_images, lambda done: progress.checked(done, count))
        )
        if report.bad:
            progress.say(f"Going on without {len(report.bad)} unreadable images.")
        folders = [folder for folder in (self.folder, *others) if folder]
        seen = {image for folder in folders for image in training_images(folder).values()}
        items = [i for i in chosen.test if report.hashes.get(i.path) not in seen]
        if len(items) < len(chosen.test):
            progress.say(f"Left out {len(chosen.test) - len(items)} images it was trained on.")
        if not items:
            raise UserError(f"There is nothing to test on in {full.name}: no image that was not trained on.")
        return items, list(chosen.classes)

    def shift(
        self,
        images: Sequence[Photo] | Sequence[Tensor],
        classes: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        frozen: Embeddings | None = None,
    ) -> Measurement:
        """Measures how far the learned parts move each tower (arXiv 2403.06136).

        Args:
            images: Photos, or batches (b, 3, h, w) of normalised images.
            classes: Names, seen in training or not; None for those of training.
            labels: Of every image, an index of ``classes``; without them there is no matching cosine.
            frozen: From :func:`restore_vlm.measure.frozen_embeddings`, where several models are
                compared on the same images.

        Raises:
            UserError: If there is no image or no class, or a photo cannot be read.
        """
        given: list[Any] = list(images)
        batches = given if given and isinstance(given[0], Tensor) else list(self.batches(given))
        return measure(
            self.model, batches, self.classes if classes is None else list(classes), labels, frozen
        )

    @classmethod
    def compare_shift(
        cls,
        folders: Sequence[str | Path],
        data: str | Path,
        classes: str | Path = "all",
        images: int = 256,
        skip_bad_images: bool = False,
        progress: Progress | None = None,
        device: str | None = None,
    ) -> Iterator[Measurement]:
        """Measures the shift of several runs on the same photos, none of which any was trained on.

        Each folder gets ``shift-CLASSES.json``; one run at a time is in memory.

        Args:
            folders: Run folders, all of one backbone.
            data: Anything :func:`restore_vlm.fit` takes.
            classes: ``all``, ``base``, ``novel`` or a file of class names.
            images: Photos looked at, at most.
            skip_bad_images: Whether to go on without unreadable images.
            progress: Callbacks.
            device: None picks the best.

        Yields:
            One measurement per folder, in order.

        Raises:
            UserError: If the runs are of different backbones, or there is nothing to measure on.
        """
        progress = progress or Progress()
        places = [Path(folder) for folder in folders]
        _same_backbone(places)
        first = cls.load(places[0], device)
        others = [place for place in places[1:] if (place / "images.json").is_file()]
        which = Path(classes) if classes not in ("all", "base", "novel") else str(classes)
        items, names = first.to_test(data, which, skip_bad_images, progress, others)
        probe = Probe.of(items, names, first.model.backbone, images, len(names))
        for one, many, count in (("class", "classes", len(names)), ("image", "images", len(probe.labels))):
            if count == 1:
                alone = "the modality gap is that to it alone"
                progress.say(f"With one {one} there are no quartiles over {many}; {alone}.")
        loaded = chain([first], (cls.load(place, device) for place in places[1:]))
        compared = probe.compare(classifier.model for classifier in loaded)
        for place, found in zip(places, compared, strict=True):
            write_json(place / f"shift-{Path(classes).stem}.json", {"data": str(data), **found.as_json()})
            yield found

    def save(self, folder: str | Path) -> None:
        """Writes ``adapter.safetensors``: what was learned, and a JSON header.

        Raises:
            UserError: If the folder cannot be written.
        """
        write_tensors(RunFolder(Path(folder)).adapter, self.model.adapter_state(), self.header)

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> Classifier:
        """Loads a run folder or what :meth:`save` wrote.

        Raises:
            UserError: If there is no adapter, it is damaged, or its backbone cannot be had.
        """
        path = RunFolder(Path(folder)).adapter
        tensors, header = read_adapter(path)
        name = header["backbone"]
        try:
            recipe = Recipe.model_validate(header["method"])
        except ValidationError as error:
            raise DamagedFile.because(path, f"its method: {error.errors()[0]['msg']}", REPEAT) from None
        backbone = load_backbone(name)
        try:
            model = PromptedModel(backbone, recipe, header["classes"])
            model.load_state_dict(tensors, strict=False)  # a cache makes room for as many keys as there are
            fits = alike(tensors, model.adapter_state())
        except (RuntimeError, MemoryError, TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise DamagedFile(f"{path} does not fit the backbone {name} that its header names; {REPEAT}.")
        in_run = (Path(folder) / "images.json").is_file()
        target = pick_device(device)
        join(target)
        classifier = cls(model.to(target), header, Path(folder) if in_run else None)
        classifier.validation = _compared(RunFolder(Path(folder)).validation)
        return classifier


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The learned tensors and header of ``adapter.safetensors``.

    Raises:
        UserError: If it is absent, damaged or of a later version.
    """
    tensors, header = read_tensors(path, Header, REPEAT)
    if header["format"] > FORMAT:
        raise UserError(f"{path} was written by restore-vlm {header['version']}; upgrade to read it.")
    return tensors, header


def fit(
    data: str | Path,
    method: str | Recipe = "restore",
    backbone: str = "tiny",
    shots: int | None = 16,
    seed: int = 1,
    classes: str = "all",
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    progress: Progress | None = None,
    validation: float | None = 0.2,
    **options: Any,
) -> Classifier:
    """Adapts a CLIP to the photos in a folder, and compares it with doing less on validation photos.

    Args:
        data: Image folder (one sub-folder per class, with or without train/val/test), CSV or
            JSON-lines manifest, or benchmark folder.
        method: ``restore``, any other that ``restore-vlm methods`` lists, a TOML file, or a
            :class:`restore_vlm.method.Recipe`.
        backbone: See :func:`restore_vlm.backbone.load_backbone`.
        shots: Training images per class; None takes all.
        seed: Of sampling, initialisation and order.
        classes: ``all``, ``base``, ``novel`` or a file of class names.
        settings: Overrides such as ``"prompts.depth=6"``.
        out: Run folder; None keeps everything in memory.
        progress: Callbacks.
        validation: Share of each class's training photos that is held back for validation where there
            are no others (see :func:`restore_vlm.data.validation_photos`); None trains on all of
            them, chooses no settings and compares nothing.
        **options: The other fields of :class:`restore_vlm.training.RunConfig`.

    Raises:
        UserError: For bad input; one sentence says what and what to do.
    """
    request: dict[str, Any] = {
        "data": str(data), "method": method, "backbone": backbone, "shots": shots, "seed": seed,
        "classes": classes, "settings": tuple(settings), "validation": validation, **options,
    }  # fmt: skip
    try:
        config = RunConfig(**request)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}.") from None
    folder, progress = Path(out) if out else None, progress or Progress()
    trained = run(config, folder, progress)
    classifier = Classifier(trained.model, trained.header, folder)
    comparison = compare(trained, trained.header["method"]["name"], progress.compared)
    classifier.validation = comparison
    if comparison and folder:
        place = RunFolder(folder).validation
        join(trained.model.backbone.device).once(
            lambda: write_json(place, comparison.model_dump(mode="json"))
        )
    return classifier


def _compared(path: Path) -> Comparison | None:
    """What :func:`fit` has written, if it has."""
    if not path.exists():
        return None
    return Comparison.model_validate(read_json(path, Comparison, "remove it, or train again"))


def _same_backbone(folders: Sequence[Path]) -> None:
    names = list(dict.fromkeys(read_adapter(RunFolder(folder).adapter)[1]["backbone"] for folder in folders))
    if len(names) > 1:
        raise UserError(f"The runs are of different backbones ({', '.join(names)}); measure those of one.")


def _class_list(classes: Sequence[str]) -> list[str]:
    names = [classes] if isinstance(classes, str) else [str(c).strip() for c in classes]
    if not names or not all(names):
        raise UserError("Name at least one class, and none of them empty.")
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise UserError(f"The class {sorted(twice)[0]!r} is named twice.")
    return names


def _read(photo: Photo) -> Image.Image:
    if isinstance(photo, Image.Image):
        return photo.convert("RGB")
    try:
        return open_image(Path(photo))
    except BadImage as error:
        raise UserError(f"{photo} cannot be read: {error}.") from None
    except OSError as error:
        raise UserError(f"{photo} cannot be opened: {error.strerror or error}.") from None
