from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from restore_vlm import Classifier, UserError, fit
from restore_vlm.data import Images
from restore_vlm.data import test_transform as plain_transform
from restore_vlm.evaluation import compare, evaluate
from restore_vlm.evaluation.comparison import PROBE, ZERO_SHOT, Score, verdict
from restore_vlm.evaluation.metrics import wilson_interval
from restore_vlm.training import RunConfig, frozen_features, run

SHORT = ("training.epochs=1", "training.batch=4")


def score(method: str, hits: int, total: int = 200) -> Score:
    return Score(method=method, accuracy=hits / total, interval=wilson_interval(hits, total))


@pytest.mark.parametrize(
    ("zero", "probe", "mine", "sentence"),
    [
        (21, 24, 19, "too weak for these photos: nothing is better than guessing; take a stronger one"),
        (30, 35, 31, "too weak for these photos: the best, linear probe, gets 18 % where guessing gets 10 %"),
        (60, 150, 110, "Linear probe does better on these photos than restore: try --method linear_probe."),
        (150, 60, 110, "Zero-shot does better on these photos than restore: try --method clip."),
        (60, 110, 150, "restore does better than zero-shot and linear probe."),
        (60, 150, 152, "better than zero-shot and is level with linear probe as far as 200 photos can tell."),
        (150, 152, 154, "restore is level with zero-shot and linear probe as far as 200 photos can tell."),
        (60, 150, None, "training pays"),
        (150, 152, None, "200 photos do not show"),
    ],
)
def test_what_is_said(zero: int, probe: int, mine: int | None, sentence: str) -> None:
    others = {ZERO_SHOT: score(ZERO_SHOT, zero), PROBE: score(PROBE, probe)}
    said = verdict(others, None if mine is None else score("restore", mine), 200, 10, "tiny")
    assert sentence in said
    assert said.count(".") == 1 and said.endswith(".")


def test_few_photos_say_nothing() -> None:
    others = {ZERO_SHOT: score(ZERO_SHOT, 0, 10), PROBE: score(PROBE, 10, 10)}
    assert "10 validation photos are too few" in verdict(others, score("restore", 0, 10), 10, 2, "tiny")


def test_it_is_what_each_would_do_alone(photos: Path) -> None:
    trained = run(RunConfig(data=str(photos), shots=3, settings=SHORT, precision="fp32", validation=0.2))
    found = compare(trained, "mine")
    assert found is not None and trained.validation is not None
    items = trained.validation.reporting
    assert found.photos == len(items) == 4 * 3
    zero = fit(photos, "clip", shots=3, validation=None).model
    backbone, names = trained.model.backbone, trained.model.classnames
    transform = plain_transform(backbone.preprocess)
    known, asked = (
        F.normalize(frozen_features(backbone, Images(part, transform)), dim=-1)
        for part in (trained.images, items)
    )
    probe = LogisticRegression(C=31.6, max_iter=1000).fit(known.double(), [i.label for i in trained.images])
    labels = [i.label for i in items]
    assert [s.method for s in found.scores] == [ZERO_SHOT, PROBE, "mine"]
    assert found.scores[0].accuracy == evaluate(zero, items, names).accuracy
    assert found.scores[1].accuracy == pytest.approx(probe.score(asked.double(), labels))
    mine = evaluate(trained.model, items, names)
    assert (found.scores[2].accuracy, found.scores[2].interval) == (mine.accuracy, mine.interval)


def test_every_photo_goes_through_the_frozen_tower_once(photos: Path, monkeypatch) -> None:
    trained = run(RunConfig(data=str(photos), method="clip", shots=3, precision="fp32", validation=0.2))
    seen, real = [], trained.model.backbone.image.forward
    monkeypatch.setattr(
        trained.model.backbone.image, "forward", lambda x, *a, **k: seen.append(len(x)) or real(x, *a, **k)
    )
    found = compare(trained, "clip")
    assert found is not None and [s.method for s in found.scores] == [ZERO_SHOT, PROBE]
    assert sum(seen) == 12 + 12


def test_it_is_kept_in_the_run_folder(photos: Path, tmp_path: Path) -> None:
    options = {"shots": 3, "settings": SHORT, "precision": "fp32", "out": tmp_path / "run"}
    fitted = fit(photos, "ivlp", **options)
    first = (tmp_path / "run" / "validation.json").read_bytes()
    assert Classifier.load(tmp_path / "run").validation == fitted.validation is not None
    (tmp_path / "run" / "validation.json").unlink()
    assert fit(photos, "ivlp", **options).validation == fitted.validation
    assert (tmp_path / "run" / "validation.json").read_bytes() == first
    (tmp_path / "run" / "validation.json").write_text("[]")
    with pytest.raises(UserError, match=r"validation\.json is damaged"):
        Classifier.load(tmp_path / "run")


def test_without_validation_photos(photos: Path, tmp_path: Path) -> None:
    fitted = fit(photos, "clip", shots=2, validation=None, out=tmp_path / "run")
    assert fitted.validation is None
    assert not (tmp_path / "run" / "validation.json").exists()
    assert Classifier.load(tmp_path / "run").validation is None


def test_drawing_is_not_disturbed(photos: Path) -> None:
    trained = run(RunConfig(data=str(photos), method="clip", shots=2, precision="fp32", validation=0.2))
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    compare(trained, "clip")
    assert torch.equal(torch.rand(3), expected)
