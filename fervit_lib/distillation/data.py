"""People as batches: resized, changed at random in ways that come again, and known by their content."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from fervit_lib.datasets import IGNORE, PeopleDataset, load_people, resize_image_and_mask
from fervit_lib.distillation.cache import BoundedCache, content_key
from fervit_lib.models.segmentation import MEAN, STRIDE, normalise
from fervit_lib.system import distributed
from fervit_lib.system.prefetch import PendingRead, PrefetchPool
from fervit_lib.system.runtime import cpu_count

_FILL = [round(255 * value) for value in MEAN]


@dataclass(frozen=True)
class Augment:
    """How far training pictures are changed, by torchvision's transforms."""

    strength: float = (
        1.0  # 1: up to 15°, a quarter of zoom, a tenth of shift, a fifth of light; 0: mirrored only
    )
    views: int = 4  # different ways in which one picture comes up, over the epochs in turn; 0: never the same twice
    seed: int = 0  # draws them

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 3:
            raise ValueError(f"augment: expected a strength in [0, 3], got {self.strength}")
        if self.views < 0:
            raise ValueError(f"views: expected 0 or more, got {self.views}")

    def change(self, image: Tensor, mask: Tensor, index: int, view: int) -> tuple[Tensor, Tensor]:
        """(3, S, S) and (S, S) uint8 → the same; what comes into the picture from outside is ignored (255)."""
        rng = np.random.default_rng(
            (self.seed, index, view)
        )  # not torch's: pictures are prepared in threads
        mask = mask[None]
        if rng.random() < 0.5:
            image, mask = TF.horizontal_flip(image), TF.horizontal_flip(mask)
        if self.strength:
            u, side = self.strength * rng.uniform(-1, 1, 7), image.shape[-1]
            place = {
                "angle": 15 * u[0],
                "translate": [0.1 * u[1] * side, 0.1 * u[2] * side],
                "scale": float(1.25 ** u[3]),
                "shear": [0.0, 0.0],
            }
            image = TF.affine(image, interpolation=InterpolationMode.BILINEAR, fill=_FILL, **place)
            mask = TF.affine(mask, interpolation=InterpolationMode.NEAREST, fill=[IGNORE], **place)
            image = TF.adjust_brightness(image, max(0.0, 1 + 0.2 * u[4]))
            image = TF.adjust_contrast(image, max(0.0, 1 + 0.2 * u[5]))
            image = TF.adjust_saturation(image, max(0.0, 1 + 0.2 * u[6]))
        return image, mask[0]


class PeopleBatches(DataLoader):
    """Batches of images (B, 3, S, S) normalised, masks (B, S, S) uint8 on `device`, and the images' content keys.

    Pictures are read and changed in threads, a batch ahead; in a launch each process reads its part of a batch. The
    order is drawn from torch's seeded random state; how a picture is changed, from `epoch`, the picture's number and
    the seed of `augment`.

    Args:
        augment: None: as they are, in order, and none left out.
        memory: bytes of prepared pictures to keep.
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
        memory: float = 2e9,
    ) -> None:
        if size < STRIDE or size % STRIDE:
            raise ValueError(f"image_size: expected a multiple of {STRIDE}, got {size}")
        if bs < 1 or bs > len(people):
            raise ValueError(
                f"batch_size: expected 1 to {len(people)}, the number of images, got {bs}"
            )
        self.people, self.size, self.resize, self.augment = people, size, resize, augment
        self.epoch, self.prepared = 0, BoundedCache(memory)
        super().__init__(
            people, bs=bs, shuffle=augment is not None, drop_last=augment is not None, device=device
        )

    def prepare(self, index: int) -> tuple[Tensor, Tensor, str]:
        """Image (3, S, S) and mask (S, S) uint8 as they come up in this epoch, and the image's content key."""
        view = 0
        if self.augment:
            view = (self.epoch + index) % self.augment.views if self.augment.views else self.epoch
        if (found := self.prepared.get((index, view))) is None:
            pixels, values = resize_image_and_mask(*self.people[index], self.size, self.resize)
            image, mask = (
                torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
                torch.from_numpy(values),
            )
            if self.augment:
                image, mask = self.augment.change(image, mask, index, view)
            found = (image, mask)
            self.prepared.put((index, view), found)
        return *found, content_key(found[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        order = torch.randperm(len(self.people)) if self.shuffle else torch.arange(len(self.people))
        chunks = [
            c.tolist() for c in order.split(self.bs) if len(c) == self.bs or not self.drop_last
        ]
        with PrefetchPool(min(16, cpu_count())) as pool:
            ahead = self._read(pool, chunks[0])
            for chunk, following in zip(chunks, [*chunks[1:], []], strict=True):
                ready, ahead = ahead, self._read(pool, following)
                *pixels, keys = zip(*(reading.result() for reading in ready), strict=True)
                self.last_names = tuple(self.people.images[i].name for i in chunk)
                own = tuple(
                    torch.stack(parts).to(self.device, non_blocking=True) for parts in pixels
                )
                images, masks = distributed.gather(own, len(chunk))
                yield normalise(images), masks, distributed.gather_names(keys, len(chunk))

    def _read(self, pool: PrefetchPool, chunk: list[int]) -> list[PendingRead]:
        own = [chunk[i] for i in distributed.own_part(len(chunk))]
        return [pool.submit(self.people.files(i), self.prepare, i) for i in own]


class CountEpochs(Callback):
    """Tell the training batches which epoch it is: a resumed fit sees the same pictures as one in a piece."""

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
    """Train and val of `load_people`, and test as `dls.test`.

    Args:
        fraction: share of the training images, drawn with `seed`.
    """
    train, val, test = (
        load_people(folder, split, allow_empty) for split in ("train", "val", "test")
    )
    same = {"size": size, "resize": resize, "device": device}
    shown = [PeopleBatches(part, bs=min(2 * batch_size, len(part)), **same) for part in (val, test)]
    dls = DataLoaders(
        PeopleBatches(
            train.part(fraction, seed), bs=batch_size, augment=augment or Augment(), **same
        ),
        shown[0],
        device=device,
    )
    dls.test, dls.synthetic, dls.n_inp = shown[1], train.synthetic, 1
    dls.num_train, dls.num_val, dls.num_test = len(dls.train.people), len(val), len(test)
    return dls
