"""The hand-written prompt of a test: each dataset's own, whatever was tested before it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.bench_makers import DEMO, copy, plan_of, request
from restore_vlm.bench import Results, Store, inline, run_grid, tables
from restore_vlm.bench.spec import address, recipe_fields
from restore_vlm.evaluation.protocol import Trial
from restore_vlm.evaluation.protocols import get_protocol
from restore_vlm.method import load_recipe

PINNED = {
    "restore/tiny": "164b5fda20ebbd95",
    "restore/dtd": "b7669e616767bb77",
    "maple/tiny": "70832f3e9765ded5",
    "ivlp/tiny": "e90199bfcaeb0cc2",
    "coop/tiny": "8699b0ce884ddabc",
    "coop/few_shot": "ff6f36685b6d3424",
    "clip/default": "56c3dc9bb9c0525a",
    "clip_ensemble/default": "e44eada2c015ef60",
    "promptsrc/default": "d94f653595e375e4",
    "kgcoop/dtd": "3c6fbd6f18939905",
    "taskres/tiny": "c14b92769b6398ae",
    "clip_adapter/imagenet": "30341c38eba8b5b0",
}
VIEWS = ("heads.cache.views=1",)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``source``, ``mine``, and ``dtd``: the catalogue's name, and so its template."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("wording")
    classes = sorted((DEMO / "train").iterdir())
    for name, folders in (("source", classes[:4]), ("mine", classes[4:8])):
        for folder in folders:
            copy(folder, root / name / folder.name)
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, folder in enumerate(classes[8:12]):
        for part in ("train", "test"):
            copy(DEMO / part / folder.name, root / "dtd" / "images" / part / folder.name)
            photos = sorted((root / "dtd" / "images" / part / folder.name).iterdir())
            split[part] += [[f"{part}/{folder.name}/{p.name}", label, folder.name] for p in photos]
    (root / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    yield root


def cross(*targets: str) -> list[Trial]:
    return get_protocol("cross-dataset").trials(["source"], [1], [2], targets)


def found(out: Path) -> dict[str, dict]:
    """The one run's results by dataset, without times."""
    store = Store(out)
    (keys,) = [keys for _, keys in store.grids()]
    times = ("seconds", "training_seconds")
    return {c.dataset: {k: v for k, v in store.result(c).items() if k not in times} for c in keys}


def grid(root: Path, out: Path, *targets: str, ran: list[str] | None = None) -> None:
    asked = request("tip_adapter", settings=VIEWS)
    told = (lambda job: ran.append(job.label)) if ran is not None else None
    assert run_grid(plan_of(root, cross(*targets), asked), asked, out, inline, told) == {}


def files(out: Path) -> dict[str, Path]:
    return {json.loads(p.read_text())["dataset"]: p for p in out.glob("runs/*/tests/*.json")}


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    grid(root, out, "mine", "dtd")
    return out


def test_results_say_in_which_template_they_were_asked(finished: Path) -> None:
    words = {name: (r["template"], r["ensemble"]) for name, r in found(finished).items()}
    assert words == {
        "source": ("a photo of a {}.", False),
        "mine": ("a photo of a {}.", False),
        "dtd": ("{} texture.", False),
    }


def test_the_order_of_targets_does_not_matter(root: Path, finished: Path, tmp_path: Path) -> None:
    grid(root, tmp_path, "dtd", "mine")
    assert found(tmp_path) == found(finished)


def test_a_resume_does_not_matter(root: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for name in ("source", "mine"):
        files(out)[name].unlink()
    grid(root, out, "dtd", "mine")
    assert found(out) == found(finished)
    for name in ("source", "mine", "dtd"):
        files(out)[name].unlink()
    grid(root, out, "dtd", "mine")
    assert found(out) == found(finished)


def test_results_of_before_are_marked_and_computed_again(root: Path, finished: Path, tmp_path: Path) -> None:
    """Those that do not say their template, beside a test that had one of its own."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for path in files(out).values():
        content = json.loads(path.read_text())
        del content["template"], content["ensemble"], content["sha256"]
        path.write_text(json.dumps({**content, "accuracy": 0.5}))
    ((conditions, keys),) = Store(out).grids()
    notes = tables(conditions, Results(keys, Store(out)))[-1].notes
    doubtful = [note.rpartition(": ")[2] for note in notes if note.startswith("perhaps asked in another")]
    assert doubtful == ["tip_adapter, source, seed 1", "tip_adapter, source to mine, seed 1"]
    ran: list[str] = []
    grid(root, out, "mine", "dtd", ran=ran)
    assert len(ran) == 1
    again, right = found(out), found(finished)
    assert (again["source"], again["mine"]) == (right["source"], right["mine"])
    assert again["dtd"]["accuracy"] == 0.5, "it always had its own template"
    notes = tables(conditions, Results(keys, Store(out)))[-1].notes
    assert not any(note.startswith("perhaps") for note in notes)
    grid(root, out, "mine", "dtd", ran=ran)
    assert len(ran) == 1


def test_results_of_before_without_a_template_among_them_stay(root: Path, tmp_path: Path) -> None:
    grid(root, tmp_path, "mine")
    for path in files(tmp_path).values():
        content = json.loads(path.read_text())
        del content["template"], content["ensemble"], content["sha256"]
        path.write_text(json.dumps(content))
    ran: list[str] = []
    grid(root, tmp_path, "mine", ran=ran)
    assert ran == []
    ((conditions, keys),) = Store(tmp_path).grids()
    assert not any("perhaps" in note for note in tables(conditions, Results(keys, Store(tmp_path)))[-1].notes)


def test_a_method_may_keep_its_template_on_every_dataset(root: Path) -> None:
    for trial in (cross("dtd"), get_protocol("few-shot").trials(["dtd"], [1], [2])):
        for method, own in (("clip_lora", False), ("taskres", True)):
            (job,) = plan_of(root, trial, request(method, settings=())).jobs
            asked = {job.spec.recipe["template"]} | {test.template for test in job.tests.values()}
            assert ("{} texture." in asked) == own


def test_an_ensemble_of_the_source_is_not_asked_of_other_datasets(root: Path, monkeypatch) -> None:
    """ImageNet's seven templates serve ImageNet and its variants; other targets have their own."""
    from restore_vlm.bench.datasets import DataRoot

    read = DataRoot(root).load("mine")
    monkeypatch.setattr(DataRoot, "_load", lambda self, name: read)
    asked = request("tip_adapter", settings=(), backbone="ViT-B-16:openai")
    across = get_protocol("cross-dataset").trials(["imagenet"], [1], [2], ["dtd", "sun397"])
    shifted = get_protocol("domain-generalisation").trials(["imagenet"], [1], [2], ["imagenetv2"])
    (job,) = plan_of(root, [*across, *shifted], asked).jobs
    assert job.spec.recipe["ensemble"] == "imagenet_7"
    assert [(t.template, t.ensemble) for t in job.tests.values()] == [
        (None, None),
        ("{} texture.", False),
        ("a photo of a {}.", False),
        ("a photo of a {}.", None),
    ]


def test_addresses_of_tests_are_those_of_before(root: Path) -> None:
    (job,) = plan_of(root, cross("mine", "dtd"), request("tip_adapter", settings=VIEWS)).jobs
    for key, test in job.tests.items():
        assert key == address({"images": test.images.digest, "template": test.template})


def test_a_recipe_whose_numbers_did_not_change_keeps_its_address() -> None:
    """Computed before crops, flips, last batches and sets of templates were keys."""
    assert {name: address(recipe_fields(load_recipe(*name.split("/")))) for name in PINNED} == PINNED


def test_a_last_batch_that_is_complete_is_no_difference() -> None:
    kept, dropped = load_recipe("clip_lora"), load_recipe("clip_lora", settings=["training.keep_last=false"])
    for images in (16, 32, 320):
        assert recipe_fields(kept, images) == recipe_fields(dropped, images)
    assert recipe_fields(kept, 33) != recipe_fields(dropped, 33)
    assert recipe_fields(kept) != recipe_fields(dropped)
