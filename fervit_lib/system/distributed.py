"""One run by several processes, one GPU each, as `accelerate launch` or `torchrun` starts them.

All ranks execute the same notebook with the same seed. Each rank loads and computes its own shard
of every batch; rank 0 writes files. A process that was started alone is rank 0 of 1.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
VARIABLES = ("WORLD_SIZE", "RANK")  # set by the launcher; fastai reads them, too


def world_size() -> int:
    """Number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


@cache
def init_process_group() -> None:
    """Connect the ranks, once: gloo for tensors in memory, NCCL for tensors on GPUs."""
    dist.init_process_group()
    atexit.register(dist.destroy_process_group)


@contextmanager
def _collective() -> Iterator[None]:
    """Run collective operations, and explain their error if another rank has ended."""
    init_process_group()
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "another process of this launch has ended; its error is above this one in log.txt, or "
            "in the launcher's output"
        ) from error


@contextmanager
def as_single_process() -> Iterator[None]:
    """Hide the other ranks, from fastai as well, while all ranks or one of them work alone."""
    hidden = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def rank_zero_only(action: Callable[P, R]) -> Callable[P, R]:
    """Let only rank 0 execute `action`; all ranks wait, and get its result or its exception."""

    @wraps(action)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if world_size() == 1:
            return action(*args, **kwargs)
        outcome: list = [None, None]  # result, exception
        if rank() == 0:
            try:
                with as_single_process():
                    outcome[0] = action(*args, **kwargs)
            except Exception as error:
                outcome[1] = error
        with _collective():
            dist.broadcast_object_list(outcome)
        result, exception = outcome
        if exception is not None:
            raise exception
        return result

    return wrapper


def shard(batch: Tensor) -> Tensor:
    """This rank's samples of a batch (n, …): every `world_size`-th one.

    All ranks get equally many, so the last ranks may repeat the first samples.
    """
    if world_size() == 1:
        return batch
    size = -(-len(batch) // world_size())
    indices = torch.arange(size, device=batch.device) * world_size() + rank()
    return batch[indices % len(batch)]


def gather(own: Any, size: int) -> Any:
    """The inverse of `shard`: the whole batch of `size` samples in its order, without gradient.

    Args:
        own: a tensor (m, …) or a tuple of tensors; everything else is returned unchanged.
    """
    if world_size() == 1:
        return own
    if isinstance(own, tuple):
        return tuple(gather(part, size) for part in own)
    if not isinstance(own, Tensor):
        return own
    sent = own.detach().contiguous()
    shards = [torch.empty_like(sent) for _ in range(world_size())]
    with _collective():
        dist.all_gather(shards, sent)
    return torch.stack(shards, dim=1).flatten(0, 1)[:size]


def average(own: Tensor) -> Tensor:
    """The mean of a tensor over the ranks, without gradient."""
    if world_size() == 1:
        return own
    total = own.detach().clone()
    with _collective():
        dist.all_reduce(total)
    return total / world_size()
