"""A cache of tensors, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor


class BoundedCache:
    """An LRU cache of tuples of tensors.

    Args:
        max_bytes: size at which the least recently used entries are dropped; 0 or less: nothing
            is stored.

    Attributes:
        bytes: size of all entries.
    """

    def __init__(self, max_bytes: float) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Tensor, ...]] = OrderedDict()

    def get(self, key: Hashable) -> tuple[Tensor, ...] | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: Hashable, tensors: tuple[Tensor, ...]) -> None:
        """Store `tensors`, unless the key is present or they exceed `max_bytes` alone."""
        size = sum(tensor.nbytes for tensor in tensors)
        if size > self.max_bytes or key in self._entries:
            return
        # A copy: a view would keep the memory of its whole batch allocated.
        self._entries[key] = tuple(tensor.clone() for tensor in tensors)
        self.bytes += size
        while self.bytes > self.max_bytes:
            _, dropped = self._entries.popitem(last=False)
            self.bytes -= sum(tensor.nbytes for tensor in dropped)
