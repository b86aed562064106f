"""Tensors to fastai batches with no Python per sample."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import Tensor

from fervit_lib.latents import LatentStore


class TensorBatches(DataLoader):
    """A fastai DataLoader over tensors that stay on their device: a batch is one indexing operation.

    The order is fastai's, drawn from python's seeded random state.
    """

    def __init__(self, *tensors: Tensor, bs: int, shuffle: bool = False) -> None:
        if bs < 1 or bs > len(tensors[0]):
            raise ValueError(f"batch_size: expected 1 to {len(tensors[0])}, the number of samples, got {bs}")
        self.tensors = tensors
        super().__init__(tensors[0], bs=bs, shuffle=shuffle, drop_last=shuffle, device=tensors[0].device)

    def create_batches(self, samples: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
        indices = torch.as_tensor(list(samples), device=self.tensors[0].device)
        for chunk in indices.split(self.bs):
            if len(chunk) == self.bs or not self.drop_last:
                yield tuple(tensor[chunk] for tensor in self.tensors)


def latent_dls(folder: Path, *, batch_size: int, device: torch.device) -> DataLoaders:
    """Train and val codes of a store, resident on `device`; batches are (codes float16 (B, 18, 512), labels (B,)).

    Raises:
        ValueError: a class has no training code, or a batch is larger than the set.
    """
    train, val = (LatentStore.open(folder, split) for split in ("train", "val"))
    present = torch.bincount(train.labels, minlength=len(train.classes))
    if empty := [name for name, n in zip(train.classes, present, strict=True) if n == 0]:
        raise ValueError(
            f"{folder}: no training code of {', '.join(empty)}; add faces of that class, or drop its folder"
        )
    dls = DataLoaders(
        TensorBatches(train.codes.to(device), train.labels.to(device), bs=batch_size, shuffle=True),
        TensorBatches(val.codes.to(device), val.labels.to(device), bs=min(512, len(val))),
        device=device,
    )
    dls.classes, dls.synthetic = train.classes, train.synthetic
    return dls
