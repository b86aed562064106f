"""Sets in shards: their files, which process writes which, and the rows of all of them.

The rows are memory-mapped and read batch by batch: a set may be larger than memory.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from fervit_lib.system.atomic import LOCK_SUFFIX
from fervit_lib.system.locks import file_lock, remove_lock, try_lock


def shard_path(folder: Path, split: str, index: int) -> Path:
    return folder / f"{split}-{index:05d}.safetensors"


def claim_shards(folder: Path, split: str, indices: Sequence[int]) -> Iterator[int]:
    """Iterate over the shards at `indices`, holding the lock of each until the next is requested.

    Shards that no other process holds come first. The others come when their holder has finished or
    was killed; the caller has to check whether they are written by then.
    """
    # First without waiting, so that several processes do not queue for the same shard.
    held_elsewhere = []
    for index in indices:
        if lock := try_lock(_claim_path(folder, split, index)):
            yield from _hold(lock, index)
        else:
            held_elsewhere.append(index)
    for index in held_elsewhere:
        lock = file_lock(_claim_path(folder, split, index))
        lock.acquire()
        yield from _hold(lock, index)


def _claim_path(folder: Path, split: str, index: int) -> Path:
    # `remove_partial_writes` removes such files if a killed process left them behind.
    return folder / f".{split}-{index:05d}{LOCK_SUFFIX}"


def _hold(lock: FileLock, index: int) -> Iterator[int]:
    try:
        yield index
    finally:
        remove_lock(lock)


class MappedRows:
    """Rows of several arrays as if they were one; `[indices]` reads only those from disk.

    Args:
        shards: arrays (n_i, …) of one dtype and shape but for their lengths, memory-mapped.
        rows: which rows of all, in which order, may repeat; None: all.
    """

    def __init__(self, shards: Sequence[np.ndarray], rows: np.ndarray | None = None) -> None:
        self.shards = shards
        self.starts = np.cumsum([0, *map(len, shards)])
        self.rows = np.arange(self.starts[-1]) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.shards[0].shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self.shards[0][:1].nbytes

    def __getitem__(self, indices: Any) -> Tensor:
        """The rows at `indices` (n,) or of a slice, copied to memory, in that order: (n, …)."""
        rows = self.rows[indices if isinstance(indices, slice) else np.asarray(indices)]
        first = self.shards[0]
        taken = np.empty((len(rows), *first.shape[1:]), first.dtype)
        of_shard = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(of_shard):
            here = np.flatnonzero(of_shard == number)
            taken[here] = self.shards[number][rows[here] - self.starts[number]]
        return torch.from_numpy(taken)

    def subset(self, rows: np.ndarray) -> Self:
        """The rows at `rows` (n,), in that order; nothing is read yet."""
        return type(self)(self.shards, self.rows[rows])

    def split(self, size: int) -> Iterator[Tensor]:
        """Read batches of `size` rows, the last of which may be smaller; of no rows one of none."""
        for start in range(0, max(len(self), 1), size):
            yield self[start : start + size]
