"""What a device can do at most, and what a computation asks of it.

Both rates of the device are measured rather than looked up: FLOP/s of a large matrix product, and
bytes/s of a large copy. A computation needs at least the longer of two times: its FLOP at the first
rate, and its bytes at the second.
"""

from dataclasses import dataclass
from typing import Any

import encode
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from fervit_lib.evaluation.efficiency import time_calls
from fervit_lib.system import runtime

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
aten = torch.ops.aten
# Operators that move no data, beside the views.
NO_TRAFFIC = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten._unsafe_view.default,
}


@dataclass(frozen=True)
class Card:
    """Measured rates of a device."""

    flops: dict[str, float]  # precision → FLOP/s
    bandwidth: float  # bytes/s, read and written


@dataclass(frozen=True)
class Cost:
    """What a computation asks of a device, per face or image."""

    flops: float  # of matrix products and convolutions
    bytes: float  # read and written by its operators, each for itself

    def least_seconds(self, card: Card, precision: str) -> tuple[float, float]:
        """Seconds that `card` needs at least to compute, and to read and write."""
        return self.flops / card.flops[precision], self.bytes / card.bandwidth


class CountCost(FlopCounterMode):
    """Count FLOP and bytes of everything that runs within, forward and backward.

    The bytes are those of the operators' inputs and outputs, weights and activations alike. Caches
    save a part of them, so a small computation can be faster than its limit.
    """

    def __init__(self, samples: int) -> None:
        mapping = {aten.convolution_backward: _conv_backward_flops}
        super().__init__(display=False, custom_mapping=mapping)
        self.samples = samples
        self.traffic = _CountBytes()

    def __enter__(self) -> "CountCost":
        super().__enter__()
        self.traffic.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.traffic.__exit__(*error)
        super().__exit__(*error)

    @property
    def cost(self) -> Cost:
        return Cost(self.get_total_flops() / self.samples, self.traffic.total / self.samples)


def _conv_backward_flops(
    gradient: list[int], inputs: list[int], weight: list[int], *arguments: Any, **_: Any
) -> int:
    """As many as forward for each of the two gradients.

    torch's own formula counts a convolution in groups as one without: 3.2 times too much for a step
    of the student of 03_distill.
    """
    transposed, (to_inputs, to_weight, _) = arguments[4], arguments[7]
    return (to_inputs + to_weight) * conv_flop_count(inputs, weight, gradient, transposed)


class _CountBytes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func not in NO_TRAFFIC:
            self.total += _bytes((args, kwargs, result))
            if not func._schema.returns:  # it writes some of its arguments: a fused optimiser
                arguments = zip(func._schema.arguments, args, strict=False)
                self.total += sum(
                    _bytes(value)
                    for argument, value in arguments
                    if argument.alias_info and argument.alias_info.is_write
                )
        return result


def _bytes(values: object) -> int:
    """Bytes of all tensors in nested lists and dictionaries."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    # An expanded tensor has more elements than memory.
    return sum(
        min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
        for tensor in tensors
    )


def precision_of(device: torch.device) -> str:
    """The precision that `auto` stands for."""
    return "bf16" if runtime.has_fast_bf16(device) else "float32"


def measure_card(device: torch.device) -> Card:
    """Measure the rates of `device` in float32 and in the precision `auto`."""
    precisions = dict.fromkeys(["float32", precision_of(device)])
    flops = {name: encode.matmul_rate(device, DTYPES[name]) for name in precisions}
    return Card(flops, copy_rate(device))


def copy_rate(device: torch.device) -> float:
    """Bytes/s that a copy of a large tensor reads and writes."""
    size = 2**27  # bytes; more than most caches hold
    if device.type == "cuda":
        size = min(2**30, torch.cuda.mem_get_info(device)[0] // 4)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / float(time_calls(lambda: target.copy_(source), device, 20).min())
