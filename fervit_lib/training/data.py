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

    Args:
        views: inputs (N, …), one tensor a view; each time a sample comes up, one of its views is drawn.
        targets: (N, …).
    """

    def __init__(self, views: Sequence[Tensor], targets: Tensor, *, bs: int, shuffle: bool = False) -> None:
        if bs < 1 or bs > len(targets):
            raise ValueError(f"batch_size: expected 1 to {len(targets)}, the number of samples, got {bs}")
        self.views, self.targets = views, targets
        super().__init__(targets, bs=bs, shuffle=shuffle, drop_last=shuffle, device=targets.device)

    def create_batches(self, samples: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
        indices = torch.as_tensor(list(samples), device=self.targets.device)
        for chunk in indices.split(self.bs):
            if len(chunk) == self.bs or not self.drop_last:
                inputs = self._draw_view(chunk)
                # Codes rest in half precision; mixing and layers in float32 want them whole.
                yield inputs.float() if inputs.dtype == torch.float16 else inputs, self.targets[chunk]

    def _draw_view(self, chunk: Tensor) -> Tensor:
        """The inputs (B, …) at `chunk` (B,), each in a view of its own."""
        if len(self.views) == 1:
            return self.views[0][chunk]
        drawn = torch.randint(len(self.views), (len(chunk),)).to(chunk.device)
        inputs = torch.empty(len(chunk), *self.views[0].shape[1:], dtype=self.views[0].dtype, device=chunk.device)
        for number, view in enumerate(self.views):
            inputs[drawn == number] = view[chunk[drawn == number]]
        return inputs


def latent_dls(folder: Path, *, batch_size: int, device: torch.device) -> DataLoaders:
    """Train and val codes of a store, resident on `device`; batches are (codes float32 (B, 18, 512), labels (B,)).

    Training draws among all views of a face that the store holds.

    Raises:
        ValueError: a class has no training code, or a batch is larger than the set.
    """
    views, val = LatentStore.open_views(folder), LatentStore.open(folder, "val")
    train = views[0]
    present = torch.bincount(train.labels, minlength=len(train.classes))
    if empty := [name for name, n in zip(train.classes, present, strict=True) if n == 0]:
        raise ValueError(
            f"{folder}: no training code of {', '.join(empty)}; add faces of that class, or drop its folder"
        )
    dls = DataLoaders(
        TensorBatches([v.codes.to(device) for v in views], train.labels.to(device), bs=batch_size, shuffle=True),
        TensorBatches([val.codes.to(device)], val.labels.to(device), bs=min(512, len(val))),
        device=device,
    )
    dls.classes, dls.synthetic = train.classes, train.synthetic
    return dls
