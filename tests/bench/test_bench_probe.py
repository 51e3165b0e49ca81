from pathlib import Path

import pytest
import torch
from bench_makers import DEMO

from restore_vlm.backbone import load_backbone
from restore_vlm.bench.datasets import Shelf
from restore_vlm.bench.probe import CLASSES, IMAGES, probe
from restore_vlm.data import Images
from restore_vlm.data import test_transform as transform_for
from restore_vlm.method import PromptedModel, load_recipe
from restore_vlm.shift import measure_model


@pytest.fixture(scope="module")
def model() -> PromptedModel:
    torch.manual_seed(0)
    return PromptedModel(load_backbone("tiny"), load_recipe("ivlp", "tiny"), ["dog", "cat"]).eval()


def test_few_images_are_all_looked_at(model: PromptedModel, root: Path) -> None:
    shelf = Shelf(root)
    images = shelf.test(shelf.names()[0], "all", None)
    assert len(images.items) <= IMAGES and len(images.classes) <= CLASSES
    loaded = Images(images.items, transform_for(model.backbone.preprocess))
    batch = torch.stack([loaded[i][0] for i in range(len(images.items))])
    direct = measure_model(model, [batch], images.classes, [i.label for i in images.items])
    assert probe(model, images) == direct


def test_many_are_spread_evenly(model: PromptedModel) -> None:
    images = Shelf(DEMO.parent).test(DEMO.name, "all", None)
    assert len(images.items) > IMAGES
    found = probe(model, images)
    assert list(found.by_class) == list(images.classes)
    assert found.after.matching is not None
    assert all(0 < s.relative.mean < 10 for s in [*found.image, *found.text[1:]])
