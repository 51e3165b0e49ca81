"""Items to batches of tensors, the same whatever the number of workers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms as T

from restore_vlm.data.dataset import Item
from restore_vlm.data.images import BadImage, open_image
from restore_vlm.errors import UserError
from restore_vlm.runtime.children import end_with_parent

SMALL = 128
MOST_WORKERS = 8
PROBES = 32

Transform = Callable[[Image.Image], Tensor]


class Images(TorchDataset[tuple[Tensor, int]]):
    """Transformed images with their labels; decoded images stay in memory within a budget.

    What a random transform does to a sample depends on (seed, epoch, index) alone, provided it
    draws from torch's global generator, as torchvision's transforms do.

    Args:
        items: The images.
        transform: From a PIL RGB image to a float tensor (3, h, w).
        seed: Of random transforms.
        budget: Bytes of decoded images to hold at most.
    """

    def __init__(
        self, items: Sequence[Item], transform: Transform, seed: int = 0, budget: int = 1 << 30
    ) -> None:
        self.items, self.transform = list(items), transform
        self.seed, self.budget, self.epoch = seed, budget, 0
        self._held: dict[int, Image.Image] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """The i-th image (3, h, w) and its label.

        Raises:
            UserError: If the file can no longer be read.
        """
        i = range(len(self.items))[i]
        image = self._image(i)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_mix(self.seed, self.epoch, i))
            return self.transform(image), self.items[i].label

    def __getstate__(self) -> dict[str, Any]:
        """Without the images held: workers that are not forked start with none."""
        return {**self.__dict__, "_held": {}, "_bytes": 0}

    def set_epoch(self, epoch: int) -> None:
        """Makes random transforms draw anew, for loaders iterated from now on."""
        self.epoch = epoch

    def fits(self) -> bool:
        """Whether all decoded images fit in the budget, judged by a few of them."""
        probes = range(0, len(self.items), max(1, len(self.items) // PROBES))
        sizes = [_bytes(self._image(i)) for i in probes]
        return sum(sizes) * len(self.items) <= self.budget * len(sizes)

    def _image(self, i: int) -> Image.Image:
        if i in self._held:
            return self._held[i]
        path = self.items[i].path
        try:
            image = open_image(path)
        except BadImage as error:
            raise UserError(f"The image {path} cannot be used ({error}); replace or remove it.") from None
        if self._bytes + _bytes(image) <= self.budget:
            self._held[i] = image
            self._bytes += _bytes(image)
        return image


def train_transform(
    cfg: PreprocessCfg, crop: tuple[float, float] = (0.08, 1.0), flip: float = 0.5
) -> Transform:
    """Random crop and flip, and the backbone's interpolation and normalisation.

    Args:
        cfg: The backbone's.
        crop: Least and largest share of the area.
        flip: Probability of mirroring.
    """
    bilinear = cfg.interpolation == "bilinear"
    mode = T.InterpolationMode.BILINEAR if bilinear else T.InterpolationMode.BICUBIC
    return T.Compose(
        [
            T.RandomResizedCrop(cfg.size, scale=crop, interpolation=mode),
            T.RandomHorizontalFlip(flip),
            T.ToTensor(),
            T.Normalize(cfg.mean, cfg.std),
        ]
    )


def test_transform(cfg: PreprocessCfg) -> Transform:
    """The backbone's own preprocessing: resize, centre crop, normalise."""
    return image_transform_v2(cfg, is_train=False)


def loader(
    images: Images, batch: int, order: Sequence[int] | None = None, workers: int | None = None
) -> DataLoader[tuple[Tensor, int]]:
    """Batches (b, 3, h, w) and (b,) of all images in order; the last one may be smaller.

    Args:
        images: What to load.
        batch: Images per batch.
        order: Indices in the order to load; None is one after the other.
        workers: Processes that load; None is none where the images are small and fit in memory,
            else one less than there are processors, 8 at most.

    Raises:
        UserError: If ``batch`` is below 1 or ``workers`` below 0.
    """
    if batch < 1:
        raise UserError(f"A batch of {batch} images is not possible; give at least 1.")
    if workers is not None and workers < 0:
        raise UserError(f"{workers} workers are not possible; give 0 or more.")
    return DataLoader(
        images,
        batch_size=batch,
        sampler=None if order is None else list(order),
        num_workers=_workers(images) if workers is None else workers,
        worker_init_fn=end_with_parent,
        generator=torch.Generator().manual_seed(0),  # else iterating would draw from the global one
    )


def _workers(images: Images) -> int:
    if len(images) == 0 or (max(images[0][0].shape[-2:]) <= SMALL and images.fits()):
        return 0
    return max(0, min((os.cpu_count() or 1) - 1, MOST_WORKERS))


def _bytes(image: Image.Image) -> int:
    return 3 * image.width * image.height


def _mix(*numbers: int) -> int:
    """A 64-bit seed from several numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest())
