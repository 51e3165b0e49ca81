"""How a trained model compares with doing less: zero-shot, and a linear probe on the same features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from restore_vlm.data import Images, Item, test_transform
from restore_vlm.evaluation.evaluate import probabilities
from restore_vlm.evaluation.metrics import wilson_interval
from restore_vlm.method import MethodConfig, PromptedModel
from restore_vlm.method.heads.linear_probe import LinearProbe, LinearProbeConfig
from restore_vlm.runtime.processes import join
from restore_vlm.training import Trained, frozen_features

ZERO_SHOT, PROBE = "zero-shot", "linear probe"
FEW = 30
"""Photos below which nothing is concluded."""
WEAK = 0.25
"""Share of the way from guessing to perfect that the best method should at least have come."""


class Score(BaseModel):
    """What one way of classifying gets right.

    Attributes:
        method: Its name.
        accuracy: Share of the photos.
        interval: Its 95 % Wilson interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    accuracy: float
    interval: tuple[float, float]


class Comparison(BaseModel):
    """A trained model beside zero-shot and a linear probe, on validation photos.

    Attributes:
        photos: How many validation photos.
        classes: How many classes they are told apart among.
        reused: Whether the method's settings were chosen on these photos, for want of others.
        scores: Zero-shot first, the trained model last; a method that is one of the others stands once.
        verdict: What that says, in one sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    photos: int
    classes: int
    reused: bool
    scores: tuple[Score, ...]
    verdict: str


def compare(
    trained: Trained, method: str, encoded: Callable[[int, int], None] = lambda done, total: None
) -> Comparison | None:
    """Compares on the validation photos of a run; every photo goes through the frozen tower once.

    The probe has the default c, so that nothing but the weights is fitted, and those to the
    training images.

    Args:
        trained: The run.
        method: Its name.
        encoded: Called with images encoded and of how many.

    Returns:
        What came out, or None if there are no validation photos.
    """
    validation, model = trained.validation, trained.model
    if validation is None or not validation.reporting:
        return None
    items, classes = validation.reporting, model.classnames
    labels = torch.tensor([item.label for item in items])
    world = join(model.backbone.device)
    guesses = world.once(lambda: _frozen_guesses(model, trained.images, items, encoded))
    is_zero_shot = not model.config.trainable and all(part is None for _, part in model.config.heads)
    if model.config.heads.linear_probe:
        del guesses[PROBE]
    if not is_zero_shot:
        images = Images(items, test_transform(model.backbone.preprocess))
        guesses[method] = probabilities(model, images).argmax(-1)
    scores = tuple(_score(name, guess == labels) for name, guess in guesses.items())
    others = {score.method: score for score in scores if score.method != method}
    mine = None if is_zero_shot else scores[-1]
    return Comparison(
        photos=len(items),
        classes=len(classes),
        reused=bool(set(items) & set(validation.choosing)) and model.config.searches,
        scores=scores,
        verdict=verdict(others, mine, len(items), len(classes), model.backbone.name),
    )


@torch.no_grad()
def _frozen_guesses(
    model: PromptedModel,
    train: Sequence[Item],
    items: Sequence[Item],
    encoded: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """(n,) predictions of zero-shot and of a linear probe."""
    backbone, config, done = model.backbone, model.config, 0

    def moved(count: int) -> None:
        nonlocal done
        done += count
        encoded(done, len(train) + len(items))

    transform = test_transform(backbone.preprocess)
    known, asked = (frozen_features(backbone, Images(part, transform), moved) for part in (train, items))
    plain = MethodConfig(name=ZERO_SHOT, template=config.template, ensemble=config.ensemble)
    zero = PromptedModel(backbone, plain, model.classnames)
    unit = F.normalize(asked, dim=-1)
    logits = backbone.logits(unit, zero.encode_text()[0])
    probe = LinearProbe(LinearProbeConfig().c, backbone.dim, len(model.classnames)).to(unit.device)
    probe.fit(known, torch.tensor([item.label for item in train]))
    rows = torch.arange(len(model.classnames), device=unit.device)
    fitted = probe(logits, unit, rows)
    return {ZERO_SHOT: logits.argmax(-1).cpu(), PROBE: fitted.argmax(-1).cpu()}


def _score(method: str, right: Tensor) -> Score:
    hits, total = int(right.sum()), len(right)
    return Score(method=method, accuracy=hits / total, interval=wilson_interval(hits, total))


def verdict(others: dict[str, Score], mine: Score | None, photos: int, classes: int, backbone: str) -> str:
    """What a comparison says, in one sentence.

    A method is called better where its interval lies wholly above the other's. The backbone is called
    weak where neither zero-shot nor the probe can be told from guessing, or where the best of all has
    for certain come less than a quarter of the way from guessing to perfect: a rule of thumb.

    Args:
        others: Scores of zero-shot and, unless it is the method itself, the probe.
        mine: That of the trained model; None where it is zero-shot itself.
        photos: They are of.
        classes: They are among.
        backbone: Its name.
    """
    if photos < FEW:
        return f"{photos} validation photos are too few to conclude anything from; {FEW} or more would do."
    guessing = 1 / classes
    everyone = [*others.values(), *([mine] if mine else [])]
    best = max(everyone, key=lambda score: score.interval)
    stronger = f"take a stronger one than {backbone!r}, such as --backbone ViT-B-16:openai."
    if all(score.interval[0] <= guessing for score in everyone):
        return f"The backbone is too weak for these photos: nothing is better than guessing; {stronger}"
    if best.interval[1] < guessing + WEAK * (1 - guessing):
        return (
            f"The backbone is too weak for these photos: the best, {best.method}, gets "
            f"{100 * best.accuracy:.0f} % where guessing gets {100 * guessing:.0f} %; {stronger}"
        )
    if mine is None:
        probe = others[PROBE]
        ahead = probe.interval[0] > others[ZERO_SHOT].interval[1]
        return (
            "A linear probe on your photos does better than zero-shot: training pays."
            if ahead
            else f"{photos} photos do not show that training on them would beat zero-shot."
        )
    better = [score for score in others.values() if score.interval[0] > mine.interval[1]]
    if better:
        top = max(better, key=lambda score: score.accuracy).method
        other = "linear_probe" if top == PROBE else "clip"
        return f"{top.capitalize()} does better on these photos than {mine.method}: try --method {other}."
    beaten = [score.method for score in others.values() if mine.interval[0] > score.interval[1]]
    level = [name for name in others if name not in beaten]
    parts = [f"does better than {' and '.join(beaten)}"] * bool(beaten)
    parts += [f"is level with {' and '.join(level)} as far as {photos} photos can tell"] * bool(level)
    return f"{mine.method} {' and '.join(parts)}."
