"""A fit by several processes: the curves are those of one process with the same batches.

Not fastai's `distrib_ctx`: its DistributedDataParallel settles when a fit begins what trains, where strategies unfreeze
parts on the way, and averages the losses of the parts, which is another loss with class weights or Dice.
"""

from contextlib import ExitStack
from functools import partial

import torch
from fastai.callback.core import Callback
from timm.layers import BatchNormAct2d
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fervit_lib.system import distributed


class Share(Callback):
    """The network sees this process's part of each batch, loss and metrics see the whole; gradients are summed.

    Batches are drawn, changed and mixed whole, alike in every process. What a network draws itself, dropout for
    instance, each draws for itself, from seed, epoch, batch and its own number: nothing of it needs to be kept, so that
    a fit goes on from its state, with another number of processes, too.
    """

    order = 30  # the last to touch a batch

    def before_fit(self) -> None:
        self.run = distributed.world_size() > 1
        if not self.run:
            return
        if self.dls.train.bs % distributed.world_size():
            raise ValueError(
                f"batch_size: expected a multiple of {distributed.world_size()}, the processes of this launch, got "
                f"{self.dls.train.bs}"
            )
        distributed.take_from_first([*self.model.parameters(), *self.model.buffers()])
        for norm in self._norms():
            norm.forward = partial(_norm_by_whole_batch, norm)

    def before_batch(self) -> None:
        self.size = len(self.x)
        self.learn.xb = tuple(distributed.part(x) for x in self.xb)
        step, device = self.epoch * self.n_iter + self.iter, self.dls.device
        self.own_randomness = ExitStack()
        self.own_randomness.enter_context(
            torch.random.fork_rng([device] if device.type == "cuda" else [])
        )
        torch.manual_seed((torch.initial_seed() + 1_000_003 * step + distributed.rank()) % 2**63)

    def after_pred(self) -> None:
        self.own_randomness.close()
        self.learn.pred = distributed.gather(self.pred, self.size)

    def after_backward(self) -> None:
        distributed.sum_gradients(self.model.parameters())

    def after_fit(self) -> None:
        for norm in self._norms():
            norm.__dict__.pop("forward", None)

    def _norms(self) -> list[_BatchNorm]:
        return [module for module in self.model.modules() if isinstance(module, _BatchNorm)]


def _norm_by_whole_batch(norm: _BatchNorm, inputs: Tensor) -> Tensor:
    """The pass of a batch norm with mean and variance over all processes. (torch's SyncBatchNorm knows only GPUs, and
    loses the activation of timm's.)
    """
    if not norm.training:
        return type(norm).forward(norm, inputs)
    x, over = inputs.float(), [0, *range(2, inputs.ndim)]
    shape = [1, -1] + [1] * (inputs.ndim - 2)
    mean = distributed.SumOverRanks.apply(x.mean(over) / distributed.world_size())
    centred = x - mean.view(shape)
    variance = distributed.SumOverRanks.apply(
        centred.square().mean(over) / distributed.world_size()
    )
    if norm.track_running_stats:
        n = distributed.world_size() * x.numel() / len(mean)
        norm.num_batches_tracked += 1
        share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
        norm.running_mean.lerp_(mean.detach().to(norm.running_mean.dtype), share)
        norm.running_var.lerp_((variance.detach() * n / (n - 1)).to(norm.running_var.dtype), share)
    x = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        x = x * norm.weight.view(shape) + norm.bias.view(shape)
    x = x.to(inputs.dtype)
    return norm.act(norm.drop(x)) if isinstance(norm, BatchNormAct2d) else x
