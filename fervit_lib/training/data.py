"""Tensors to fastai batches with no Python per sample."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import Tensor, nn

from fervit_lib.datasets import few_shot_mask, load_votes, soft_labels, stratified_mask
from fervit_lib.inputs import inputs_for
from fervit_lib.latents import LatentStore


class TensorBatches(DataLoader):
    """A fastai DataLoader over tensors that stay on their device: a batch is one indexing operation.

    The order is drawn from torch's seeded random state.

    Args:
        views: inputs (N, …), one tensor a view; each time a sample comes up, one of its views is drawn.
        targets: (N, …).

    Attributes:
        beside: (N, …), what a batch brings beside inputs and targets, for the loss; None: nothing.
    """

    n_inp = 1  # only the first of a batch goes into the model

    def __init__(
        self, views: Sequence[Tensor], targets: Tensor, *, bs: int, shuffle: bool = False
    ) -> None:
        if bs < 1 or bs > len(targets):
            raise ValueError(
                f"batch_size: expected 1 to {len(targets)}, the number of samples, got {bs}"
            )
        self.views, self.targets = views, targets
        self.beside: Tensor | None = None
        super().__init__(targets, bs=bs, shuffle=shuffle, drop_last=shuffle, device=targets.device)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = (
            torch.randperm(len(self.targets)) if self.shuffle else torch.arange(len(self.targets))
        )
        for chunk in order.to(self.targets.device).split(self.bs):
            if len(chunk) == self.bs or not self.drop_last:
                inputs = self._draw_view(chunk)
                # Codes rest in half precision; mixing and layers in float32 want them whole.
                inputs = inputs.float() if inputs.dtype == torch.float16 else inputs
                yield (
                    inputs,
                    self.targets[chunk],
                    *([] if self.beside is None else [self.beside[chunk]]),
                )

    def _draw_view(self, chunk: Tensor) -> Tensor:
        """The inputs (B, …) at `chunk` (B,), each in a view of its own."""
        if len(self.views) == 1:
            return self.views[0][chunk]
        drawn = torch.randint(len(self.views), (len(chunk),)).to(chunk.device)
        inputs = torch.empty(
            len(chunk), *self.views[0].shape[1:], dtype=self.views[0].dtype, device=chunk.device
        )
        for number, view in enumerate(self.views):
            inputs[drawn == number] = view[chunk[drawn == number]]
        return inputs


def training_part(
    store: LatentStore, *, fraction: float = 1.0, shots: int = 0, seed: int = 0
) -> np.ndarray:
    """(N,) bool: which training faces are used. The same for every approach, strategy and training seed.

    Args:
        fraction: share of every class, in (0, 1].
        shots: faces of every class; 0: as `fraction` says.
        seed: draws them.

    Raises:
        ValueError: a class has no training face, or fewer than `shots`; `fraction` is out of range.
    """
    present = torch.bincount(store.labels, minlength=len(store.classes))
    if len(present) > len(store.classes):
        raise ValueError(
            f"{store.folder}: expected labels below {len(store.classes)}, the number of classes, got "
            f"{len(present) - 1}; run 01_encode"
        )
    if empty := [name for name, n in zip(store.classes, present, strict=True) if n == 0]:
        raise ValueError(
            f"{store.folder}: no training code of {', '.join(empty)}; add faces of that class, or drop its folder"
        )
    if not 0 < fraction <= 1:
        raise ValueError(f"data_fraction: expected a share in (0, 1], got {fraction}")
    labels = store.labels.numpy()
    return few_shot_mask(labels, shots, seed) if shots else stratified_mask(labels, fraction, seed)


class TrainingPart(TypedDict, total=False):
    """Keywords of `training_part`."""

    fraction: float
    shots: int
    seed: int


def face_dls(
    model: nn.Module,
    folder: Path,
    *,
    batch_size: int,
    device: torch.device,
    epoch_faces: int = 0,
    labels: str = "hard",
    **part: Unpack[TrainingPart],
) -> DataLoaders:
    """Train and val faces of a store as `model` takes them, resident on `device`.

    Batches are (codes float32 (B, 18, 512), labels (B,)), training drawing among all views of a face that the store
    holds; for a model over pixels (images uint8 (B, 3, S, S), labels (B,)) of the very same faces.

    Args:
        epoch_faces: fewer training faces are repeated until an epoch has so many, so that few of them are not also
            few steps; 0: none is.
        labels: of the training faces: `hard`, the store's; or `soft`, (B, C) shares of the votes of FER+, which lie
            beside the faces (Barsoum et al. 2016). Faces without a verdict are then left out.
        part: which training faces, see `training_part`.

    Raises:
        FileNotFoundError: there are no votes beside the faces.
        ValueError: as `training_part`; a batch is larger than the set; the codes or labels do not fit the model; or the
            faces are not where they were encoded, or not those that were voted on.
    """
    if labels not in ("hard", "soft"):
        raise ValueError(f"labels: expected hard or soft, got {labels!r}")
    views, val = LatentStore.open_views(folder), LatentStore.open(folder, "val")
    chosen, targets = np.flatnonzero(training_part(views[0], **part)), views[0].labels
    if labels == "soft":
        targets = torch.from_numpy(
            soft_labels(load_votes(val.faces, views[0].paths), val.classes)
        ).float()
        chosen = chosen[targets[chosen].sum(1).numpy() > 0]
    repeated = np.resize(chosen, max(len(chosen), epoch_faces))
    if model.reads == "pixels":
        views = views[:1]  # all views are of the same faces
    inputs = [inputs_for(model, view, repeated) for view in views]
    targets = targets[torch.from_numpy(repeated)]
    dls = DataLoaders(
        TensorBatches(
            [view.to(device) for view in inputs], targets.to(device), bs=batch_size, shuffle=True
        ),
        TensorBatches(
            [inputs_for(model, val).to(device)], val.labels.to(device), bs=min(512, len(val))
        ),
        device=device,
    )
    dls.classes, dls.synthetic, dls.num_faces = val.classes, val.synthetic, len(chosen)
    return dls
