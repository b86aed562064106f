"""Batches of photographs of people with masks: resized, augmented, keyed by content."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from fervit_lib.datasets import (
    IGNORE,
    SPLITS,
    PeopleDataset,
    load_people,
    resize_image_and_mask,
)
from fervit_lib.distillation.cache import BoundedCache
from fervit_lib.models.segmentation import MEAN, STRIDE, normalise
from fervit_lib.system import distributed
from fervit_lib.system.checkpoints import content_key
from fervit_lib.system.names import check_range
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.runtime import cpu_count
from fervit_lib.training.data import ShardedBatches

_FILL = [round(255 * value) for value in MEAN]


@dataclass(frozen=True)
class Augment:
    """How strongly training images and their masks are augmented, by torchvision's transforms."""

    # in [0, 4); 1: rotate up to 15°, zoom by 1.25, shift by a tenth, light by a fifth; 0: flips
    strength: float = 1.0
    # different augmentations per image, repeated in turn over the epochs; 0: a new one every epoch
    views: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("augment", self.strength, 0, 4)
        check_range("views", self.views, 0)

    def change(self, image: Tensor, mask: Tensor, content: int, view: int) -> tuple[Tensor, Tensor]:
        """Augment an image (3, S, S) and its mask (S, S), uint8.

        Pixels from outside the image are 255 in the mask: ignored.

        Args:
            content: hash of the image, from which the augmentation is drawn: it stays the same when
                other images are added or removed.
        """
        # Not torch's generator: images are prepared in threads.
        rng = np.random.default_rng((self.seed, content, view))
        mask = mask[None]
        if rng.random() < 0.5:
            image = TF.horizontal_flip(image)
            mask = TF.horizontal_flip(mask)
        if self.strength:
            u = self.strength * rng.uniform(-1, 1, 7)
            side = image.shape[-1]
            affine = {
                "angle": 15 * u[0],
                "translate": [0.1 * u[1] * side, 0.1 * u[2] * side],
                "scale": float(1.25 ** u[3]),
                "shear": [0.0, 0.0],
            }
            image = TF.affine(image, interpolation=InterpolationMode.BILINEAR, fill=_FILL, **affine)
            mask = TF.affine(mask, interpolation=InterpolationMode.NEAREST, fill=[IGNORE], **affine)
            image = TF.adjust_brightness(image, max(0.0, 1 + 0.2 * u[4]))
            image = TF.adjust_contrast(image, max(0.0, 1 + 0.2 * u[5]))
            image = TF.adjust_saturation(image, max(0.0, 1 + 0.2 * u[6]))
        return image, mask[0]


class PeopleBatches(ShardedBatches):
    """Batches of normalised images (B, 3, S, S), masks (B, S, S) uint8, and content keys.

    Images are read and augmented in threads, one batch ahead; each rank reads only its own shard.
    The order is drawn from torch's seeded state. The augmentation of an image depends on the epoch,
    its content and the seed of `augment`.

    Args:
        augment: None: not augmented, in order, with the last incomplete batch.

    Attributes:
        own: this rank's images (B,) of each batch of the epoch.
    """

    def __init__(
        self,
        people: PeopleDataset,
        *,
        size: int,
        resize: str = "letterbox",
        bs: int,
        device: torch.device,
        augment: Augment | None = None,
    ) -> None:
        if size < STRIDE or size % STRIDE:
            raise ValueError(f"image_size: expected a multiple of {STRIDE}, got {size}")
        if bs < 1 or bs > len(people):
            raise ValueError(
                f"batch_size: expected 1 to {len(people)}, the number of images, got {bs}"
            )
        self.people = people
        self.size = size
        self.resize = resize
        self.augment = augment
        self.epoch = 0
        self.contents: dict[int, int] = {}  # hash of each image, once it was read
        self.prepared = BoundedCache(2e9)  # bytes
        training = augment is not None
        super().__init__(people, bs=bs, shuffle=training, drop_last=training, device=device)

    def prepare(self, index: int) -> tuple[Tensor, Tensor, str]:
        """Image (3, S, S) and mask (S, S) of this epoch, uint8, and the image's content key."""
        view = self._view(index)
        result = self.prepared.get((index, view))
        if result is None:
            pixels, values = resize_image_and_mask(*self.people[index], self.size, self.resize)
            image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # HWC → CHW
            mask = torch.from_numpy(values)
            if self.augment:
                if index not in self.contents:
                    self.contents[index] = int(content_key(image), 16)
                view = self._view(index)  # it may have been unknown before
                image, mask = self.augment.change(image, mask, self.contents[index], view)
            result = (image, mask)
            self.prepared.put((index, view), result)
        return *result, content_key(result[0])

    def _view(self, index: int) -> int:
        """Which augmentation of an image this epoch uses; 0 for an image that was not read yet."""
        if self.augment is None or index not in self.contents:
            return 0
        views = self.augment.views
        return (self.epoch + self.contents[index]) % views if views else self.epoch

    def image_names(self, batch: int) -> list[str]:
        """File names of a batch of the running epoch, for error messages."""
        return [self.people.images[i].name for i in self.own[batch]]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        batches = list(self.global_batches())
        self.own = [distributed.shard(indices) for indices in batches]
        with PrefetchPool(min(16, cpu_count())) as pool:
            order = torch.cat(self.own).tolist()
            samples = pool.map(self.prepare, order, self.people.files, ahead=2 * self.bs)
            for indices, own_indices in zip(batches, self.own, strict=True):
                images, masks, keys = zip(*islice(samples, len(own_indices)), strict=True)
                self.batch_len = len(indices)
                images = torch.stack(images).to(self.device, non_blocking=True)
                masks = torch.stack(masks).to(self.device, non_blocking=True)
                yield normalise(images), masks, keys


class CountEpochs(Callback):
    """Set the epoch of the training batches, so that a resumed fit sees the same augmentations."""

    def before_epoch(self) -> None:
        self.dls.train.epoch = self.epoch


def people_dls(
    folder: Path,
    *,
    size: int,
    batch_size: int,
    device: torch.device,
    resize: str = "letterbox",
    augment: Augment | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    allow_empty: bool = False,
) -> DataLoaders:
    """Batches of the train and val splits of `load_people`, and of test as `dls.test`.

    Photographs that cannot be read are left out; the sets are `.people` of the batches, and
    `datasets.list_skipped` lists what they leave out.

    Args:
        fraction: share of the training images, drawn with `seed`.

    Raises:
        ValueError: no photograph of a split can be read, and the errors of `load_people`.
    """
    train, val, test = (load_people(folder, split, allow_empty) for split in SPLITS)
    # Drawn before files are left out: a file that is missing changes no other's place.
    train, val, test = (
        people.without_unreadable() for people in (train.part(fraction, seed), val, test)
    )
    shared = {"size": size, "resize": resize, "device": device}
    train_batches = PeopleBatches(train, bs=batch_size, augment=augment or Augment(), **shared)
    val_batches, test_batches = (
        PeopleBatches(people, bs=min(2 * batch_size, len(people)), **shared)
        for people in (val, test)
    )
    dls = DataLoaders(train_batches, val_batches, device=device)
    dls.test = test_batches
    dls.n_inp = 1  # only the images go into the model
    return dls
