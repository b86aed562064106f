"""One run by several processes, a GPU each, as `accelerate launch` or `torchrun` starts them.

Every process executes the same notebook with the same random numbers, and so holds the same batches. What is dear, a
network's passes and reading pictures, each does for its own part of a batch, and the parts come together again; what is
written, the first one writes. In a process that was started alone every function here does the plain thing.
"""

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
VARIABLES = ("WORLD_SIZE", "RANK")  # as launchers set them; fastai reads them, too


def world_size() -> int:
    """How many processes work on this run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this one is; the first, 0, writes."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def local_rank() -> int:
    """Which of those on this machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world_size() > 1 else 0


@cache
def _join() -> None:
    """Meet the others: by gloo for what lies in memory, by NCCL for what lies on GPUs."""
    dist.init_process_group()
    atexit.register(dist.destroy_process_group)


@contextmanager
def _meeting() -> Iterator[None]:
    """Within, this process waits for the others. Raises RuntimeError where one of them has ended."""
    _join()
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "another process of this launch has ended, expected it to come here, too; its error stands before this one "
            "in log.txt, or in what the launcher shows"
        ) from error


@contextmanager
def as_single_process() -> Iterator[None]:
    """Within, this process is one of its own, for fastai, too: what all do alike, or the first one does."""
    hidden = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def rank_zero_only(action: Callable[P, R]) -> Callable[P, R]:
    """Let the first process do `action`; all go on when it is done, with its result or its error."""

    @wraps(action)
    def by_the_first(*args: P.args, **kwargs: P.kwargs) -> R:
        if world_size() == 1:
            return action(*args, **kwargs)
        said: list[Any] = [None, None]
        if rank() == 0:
            try:
                with as_single_process():
                    said[0] = action(*args, **kwargs)
            except Exception as error:
                said[1] = error
        with _meeting():
            dist.broadcast_object_list(said)
        if said[1] is not None:
            raise said[1]
        return said[0]

    return by_the_first


def own_part(n: int) -> list[int]:
    """Which of a batch of `n` are this process's: equally many for each, so that the last ones may repeat some."""
    size = -(-n // world_size())
    return [(rank() * size + i) % n for i in range(size)]


def part(batch: Tensor) -> Tensor:
    """This process's part of a batch (n, …), as `own_part` says; a view where all parts are whole."""
    size = len(batch) // world_size()
    if len(batch) % world_size():
        return batch[torch.tensor(own_part(len(batch)), device=batch.device)]
    return batch[rank() * size : (rank() + 1) * size]


def gather(own: Any, n: int) -> Any:
    """Every process's part, a tensor or tuple of them, as the batch of `n` in its order.

    A gradient goes into this process's own part. Each process having the same loss of the whole batch, the sum of their
    gradients is the gradient of that loss, whatever it is: see `sum_gradients`.
    """
    if world_size() == 1 or own is None:
        return own
    if isinstance(own, list | tuple):
        return type(own)(gather(part, n) for part in own)
    sent = own.detach().contiguous()
    parts = [torch.empty_like(sent) for _ in range(world_size())]
    with _meeting():
        dist.all_gather(parts, sent)
    parts[rank()] = own
    return torch.cat(parts)[:n]


def gather_names(own: Sequence[str], n: int) -> tuple[str, ...]:
    """As `gather`, of texts."""
    if world_size() == 1:
        return tuple(own)
    parts: list[Any] = [None] * world_size()
    with _meeting():
        dist.all_gather_object(parts, list(own))
    return tuple(name for part in parts for name in part)[:n]


def in_shares(compute: Callable[[Tensor], Any], batch: Tensor) -> Any:
    """`compute(batch)` of something that treats the samples of a batch (n, …) one by one, a part in each process."""
    return gather(compute(part(batch)), len(batch))


def mean(own: Tensor) -> Tensor:
    """The mean of a tensor over the processes; its gradient as in `gather`."""
    return own if world_size() == 1 else gather(own[None], world_size()).mean(0)


class SumOverRanks(torch.autograd.Function):
    """A tensor summed over the processes, where each goes on to use it for its own part: gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        with _meeting():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return SumOverRanks.apply(gradient)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients of parameters that train by their sums over the processes, in one message."""
    gradients = [p.grad for p in parameters if p.requires_grad and p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    with _meeting():
        dist.all_reduce(together)
    for gradient, total in zip(
        gradients, together.split([g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(total.view_as(gradient))


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by the first process's."""
    with _meeting():
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)
