import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision import transforms as T

from restore_vlm.data import Images, Item, loader, loading, train_transform
from restore_vlm.errors import UserError

CFG = PreprocessCfg(size=16)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)
        made.append(Item(path, i % 3))
    return made


def batches(images: Images, **options) -> tuple[torch.Tensor, torch.Tensor]:
    loaded = list(loader(images, 4, **options))
    return torch.cat([x for x, _ in loaded]), torch.cat([y for _, y in loaded])


def test_shapes_and_labels(items: list[Item]) -> None:
    images = Images(items, loading.test_transform(CFG))
    x, label = images[4]
    assert (x.shape, x.dtype, label, len(images)) == ((3, 16, 16), torch.float32, 1, 6)
    sizes = [len(y) for _, y in loader(images, 4, None)]
    assert sizes == [4, 2]
    with pytest.raises(IndexError):
        images[6]


def test_test_transform_is_open_clips(items: list[Item]) -> None:
    image = Image.open(items[0].path).convert("RGB")
    assert torch.equal(
        Images(items, loading.test_transform(CFG))[0][0], image_transform_v2(CFG, False)(image)
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_train_transform_is_the_published_one(items: list[Item], interpolation: str) -> None:
    cfg = PreprocessCfg(size=16, interpolation=interpolation)
    reference = T.Compose(
        [
            T.RandomResizedCrop(16, scale=(0.08, 1), interpolation=T.InterpolationMode(interpolation)),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(cfg.mean, cfg.std),
        ]
    )
    image = Image.open(items[0].path).convert("RGB")
    torch.manual_seed(3)
    expected = reference(image)
    torch.manual_seed(3)
    assert torch.equal(train_transform(cfg)(image), expected)
    torch.manual_seed(3)
    assert not torch.equal(train_transform(cfg, (0.9, 1.0))(image), expected)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_crops_and_flips_are_those_asked_for(items: list[Item], flip: float) -> None:
    """The whole picture, mirrored always or never."""
    image = Image.open(items[0].path).convert("RGB").resize((16, 16))
    whole = T.Compose([T.ToTensor(), T.Normalize(CFG.mean, CFG.std)])(image)
    for seed in range(5):
        torch.manual_seed(seed)
        found = train_transform(replace(CFG, size=16), (1.0, 1.0), flip)(image)
        assert torch.equal(found, whole.flip(-1) if flip else whole)


def test_samples_do_not_depend_on_order_workers_or_history(items: list[Item]) -> None:
    images = Images(items, train_transform(CFG), seed=1)
    images.set_epoch(2)
    straight, labels = batches(images, order=None, workers=0)
    order = [5, 0, 3, 1, 4, 2]
    torch.manual_seed(99)
    fresh = Images(items, train_transform(CFG), seed=1, budget=0)
    fresh.set_epoch(2)
    shuffled, moved = batches(fresh, order=order, workers=1)
    assert torch.equal(shuffled, straight[order]) and torch.equal(moved, labels[order])


def test_epochs_and_seeds_differ(items: list[Item]) -> None:
    images = Images(items, train_transform(CFG))
    first = images[0][0]
    images.set_epoch(1)
    assert not torch.equal(images[0][0], first)
    images.set_epoch(0)
    assert torch.equal(images[0][0], first)
    assert not torch.equal(Images(items, train_transform(CFG), seed=1)[0][0], first)


def test_global_generator_is_left_alone(items: list[Item]) -> None:
    before = torch.get_rng_state()
    batches(Images(items, train_transform(CFG)), order=None)
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_budget(items: list[Item]) -> None:
    one = 3 * 24 * 32
    images = Images(items, loading.test_transform(CFG), budget=2 * one)
    assert not images.fits()
    batches(images, order=None, workers=0)
    for item in items:
        item.path.unlink()
    assert images[0][1] == 0 and images[1][1] == 1
    with pytest.raises(UserError, match=r"2.png cannot be used \(no such file\)"):
        images[2]
    with pytest.raises(UserError):
        pickle.loads(pickle.dumps(images))[0]  # workers start without the images held


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (loading.test_transform(PreprocessCfg(size=s)) for s in (16, 224))
    monkeypatch.setattr(loading.os, "cpu_count", lambda: 4)
    assert loader(Images(items, small), 2, None).num_workers == 0
    assert loader(Images(items, small, budget=100), 2, None).num_workers == 3
    assert loader(Images(items, large), 2, None).num_workers == 3
    assert loader(Images([], large), 2, None).num_workers == 0
    monkeypatch.setattr(loading.os, "cpu_count", lambda: 64)
    assert loader(Images(items, large), 2, None).num_workers == 8
    monkeypatch.setattr(loading.os, "cpu_count", lambda: None)
    assert loader(Images(items, large), 2, None).num_workers == 0


def test_errors(items: list[Item]) -> None:
    images = Images(items, loading.test_transform(CFG))
    with pytest.raises(UserError, match="batch of 0"):
        loader(images, 0, None)
    with pytest.raises(UserError, match="-1 workers"):
        loader(images, 1, None, -1)
