"""Batches of faces, without Python code per sample."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.torch_core import to_detach
from torch import Tensor, nn

from fervit_lib.datasets import few_shot_mask, load_votes, soft_labels, stratified_mask
from fervit_lib.inputs import inputs_for, load_store_faces
from fervit_lib.latents import LatentStore
from fervit_lib.system import distributed
from fervit_lib.system.names import check_choice, check_share
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.shards import MappedRows

RESIDENT_BYTES = 3e8  # of inputs that are kept in memory; more are read from disk by batch
READ_AHEAD = 2  # batches


class ShardedBatches(DataLoader):
    """A fastai DataLoader whose batches are this rank's shard of the global batches of size `bs`.

    Attributes:
        batch_len: number of samples in the latest global batch.
    """

    batch_len = 0
    index_device = torch.device("cpu")

    def global_batches(self) -> Iterator[Tensor]:
        """Indices (B,) of each global batch, alike on all ranks: from torch's seeded state."""
        # Drawn on the CPU, so that the order is the same whatever the device.
        order = torch.randperm(self.n) if self.shuffle else torch.arange(self.n)
        for indices in order.to(self.index_device).split(self.bs):
            if len(indices) == self.bs or not self.drop_last:
                yield indices

    def to_detach(self, batch: Any, cpu: bool = True, gather: bool = True) -> Any:
        # fastai's metrics call this for every batch: they accumulate on the device until `Recorder`
        # reads them. `DataParallel` has gathered the batch before.
        return to_detach(batch, cpu=False, gather=False)


class TensorBatches(ShardedBatches):
    """Batches of tensors that stay on their device, one indexing operation per batch; or of rows
    that are mapped from disk, read ahead by a thread.

    Args:
        views: inputs (N, …), one per view; a batch draws one view of each sample.
        targets: (N, …).

    Attributes:
        batch_indices: (B,) of the samples in this rank's latest batch.
    """

    n_inp = 1  # only the first element of a batch goes into the model
    batch_indices: Tensor

    def __init__(
        self,
        views: Sequence[Tensor] | Sequence[MappedRows],
        targets: Tensor,
        *,
        bs: int,
        shuffle: bool = False,
    ) -> None:
        if bs < 1 or bs > len(targets):
            raise ValueError(
                f"batch_size: expected 1 to {len(targets)}, the number of samples, got {bs}"
            )
        self.views = views
        self.targets = targets
        self.is_mapped = isinstance(views[0], MappedRows)
        # A few images may be tensors in memory that are not on the targets' device.
        self.index_device = getattr(views[0], "device", torch.device("cpu"))
        # The last, smaller training batch is dropped: batch norm needs more than one sample.
        super().__init__(targets, bs=bs, shuffle=shuffle, drop_last=shuffle, device=targets.device)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        device = self.targets.device
        for batch_len, indices, batch in self._read_all():
            self.batch_len = batch_len
            self.batch_indices = indices.to(device, non_blocking=True)
            batch = batch.to(device, non_blocking=True)
            # Codes are stored in half precision; mixup and the layers compute in float32.
            batch = batch.float() if batch.dtype == torch.float16 else batch
            yield batch, self.targets[self.batch_indices]

    def _read_all(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        # Not ahead where a view is drawn per batch: it would be drawn before the batches in between
        # are augmented, and a fit would depend on whether its inputs are mapped.
        if self.is_mapped and len(self.views) == 1:
            name = "a batch of the store"
            with PrefetchPool(1) as pool:
                yield from pool.map(self._read, self.global_batches(), lambda _: name, READ_AHEAD)
        else:
            yield from map(self._read, self.global_batches())

    def _read(self, indices: Tensor) -> tuple[int, Tensor, Tensor]:
        """Length of a global batch; this rank's indices of it, and their inputs (B, …)."""
        batch_len = len(indices)
        if len(self.views) > 1:  # drawn for the whole batch, so that all ranks draw alike
            drawn = distributed.shard(torch.randint(len(self.views), (batch_len,)))
        indices = distributed.shard(indices)
        inputs = self.views[0][indices]  # (B, …)
        for number, view in enumerate(self.views[1:], start=1):
            of_view = (drawn == number).to(indices.device, non_blocking=True)
            # Not by a mask as the index: a GPU would have to count it first.
            of_view = of_view.view(-1, *[1] * (inputs.ndim - 1))
            inputs = torch.where(of_view, view[indices], inputs)
        if self.targets.is_cuda and not inputs.is_cuda:
            inputs = inputs.pin_memory()
        return batch_len, indices, inputs


def training_subset(
    store: LatentStore, *, fraction: float = 1.0, shots: int = 0, seed: int = 0
) -> np.ndarray:
    """(N,) bool: the training faces to use, whatever the approach, strategy and training seed.

    Args:
        fraction: share of every class, in (0, 1].
        shots: faces of every class; 0: use `fraction`.
        seed: of the draw.

    Raises:
        ValueError: a class has no training face, or fewer than `shots`; `fraction` is out of range.
    """
    counts = torch.bincount(store.labels, minlength=len(store.classes))
    if empty := [name for name, n in zip(store.classes, counts, strict=True) if n == 0]:
        raise ValueError(
            f"{store.folder}: no training code of {', '.join(empty)}; add faces of that class, or "
            f"remove its folder"
        )
    check_share("data_fraction", fraction)
    labels = store.labels.numpy()
    return few_shot_mask(labels, shots, seed) if shots else stratified_mask(labels, fraction, seed)


def face_dls(
    model: nn.Module,
    folder: Path,
    *,
    batch_size: int,
    device: torch.device,
    epoch_faces: int = 0,
    labels: str = "hard",
    **subset: Any,
) -> DataLoaders:
    """Train and val faces of a store as inputs of `model`.

    They are resident on `device` if they fit into half of a GPU's free memory, on a CPU into 0.3
    GB; else each batch is read from disk, and equals the resident one.

    Batches are codes float32 (B, 18, 512), of a random view of each training face, and labels (B,);
    for a model of pixels images uint8 (B, 3, S, S) of the same faces, and labels (B,).

    Args:
        epoch_faces: repeat training faces until an epoch has this many, so that a small subset does
            not also mean few steps; 0: do not repeat.
        labels: of the training faces: `hard`, the store's; or `soft`, (B, C) shares of the FER+
            votes found beside the faces (Barsoum et al. 2016); faces without a valid vote are left
            out.
        subset: arguments of `training_subset`.

    Raises:
        FileNotFoundError: there are no votes beside the faces.
        ValueError: as `training_subset`; `batch_size` exceeds the split; the codes or labels do not
            fit the model; or the faces moved or differ from those of the votes.
    """
    check_choice("labels", labels, ("hard", "soft"))
    # Views differ in their codes only.
    by_pixels = model.reads == "pixels"
    views = [LatentStore.open(folder, "train")] if by_pixels else LatentStore.open_views(folder)
    val = LatentStore.open(folder, "val")
    chosen = np.flatnonzero(training_subset(views[0], **subset))
    targets = views[0].labels
    if labels == "soft":
        names: Sequence[str] = views[0].paths
        if val.faces.is_file():  # a table, whose lines may have moved
            names = load_store_faces(views[0], np.arange(len(names))).paths
        shares = soft_labels(load_votes(val.faces, names), val.classes)
        targets = torch.tensor(shares, dtype=torch.float32)
        # A face without a valid vote has no target: its shares are all 0.
        chosen = chosen[targets[chosen].sum(1).numpy() > 0]
    # np.resize repeats its input from the start until the new length is reached.
    repeated = np.resize(chosen, max(len(chosen), epoch_faces))
    inputs = [inputs_for(model, view, repeated) for view in views]
    targets = targets[torch.from_numpy(repeated)].to(device)
    val_inputs = inputs_for(model, val)
    limit = torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else RESIDENT_BYTES
    if sum(rows.nbytes for rows in (*inputs, val_inputs)) <= limit:
        inputs = [rows[:].to(device) for rows in inputs]
        val_inputs = val_inputs[:].to(device)
    dls = DataLoaders(
        TensorBatches(inputs, targets, bs=batch_size, shuffle=True),
        TensorBatches([val_inputs], val.labels.to(device), bs=min(512, len(val))),
        device=device,
    )
    dls.stores = {"train": views[0], "val": val}
    dls.classes = val.classes
    dls.synthetic = val.synthetic
    dls.chosen = chosen  # positions of the training faces in the store
    dls.num_faces = len(chosen)  # without the repeated ones
    return dls
