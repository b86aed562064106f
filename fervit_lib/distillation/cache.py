"""Tensors kept by content, within a bound."""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable

import torch
from torch import Tensor, nn


def content_key(*parts: Tensor | bytes) -> str:
    """32 hex digits of what tensors hold (dtype, shape and values), wherever they lie in memory."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            part = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(part)
    return digest.hexdigest()


def model_key(model: nn.Module) -> str:
    """`content_key` of a model's weights and buffers, under their names."""
    return content_key(
        *(part for name, value in model.state_dict().items() for part in (name.encode(), value))
    )


class BoundedCache:
    """Tuples of tensors by key; the longest unused go when `max_bytes` are full. With 0 nothing is kept.

    Attributes:
        hits, misses: of `get` so far.
    """

    def __init__(self, max_bytes: float) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes: expected 0 or more, got {max_bytes}")
        self.max_bytes, self.bytes = max_bytes, 0
        self.hits = self.misses = 0
        self._kept: OrderedDict[Hashable, tuple[Tensor, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> tuple[Tensor, ...] | None:
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, tensors: tuple[Tensor, ...]) -> None:
        size = _size(tensors)
        if size > self.max_bytes or key in self._kept:
            return
        # A view would keep the batch that it was cut from alive.
        self._kept[key] = tuple(
            t.clone() if t.untyped_storage().nbytes() > t.nbytes else t for t in tensors
        )
        self.bytes += size
        while self.bytes > self.max_bytes:
            self.bytes -= _size(self._kept.popitem(last=False)[1])


def _size(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
