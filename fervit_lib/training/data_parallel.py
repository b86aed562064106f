"""Training by several processes with torch's DistributedDataParallel (DDP)."""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from fastai.callback.core import Callback
from timm.layers import convert_sync_batchnorm
from timm.utils import distribute_bn
from torch.nn.parallel import DistributedDataParallel

from fervit_lib.system import distributed


class DataParallel(Callback):
    """Average the gradients of all ranks by DDP; each rank computes its own shard of every batch.

    All ranks draw the same global batches, and the loaders (`TensorBatches`, `PeopleBatches`) yield
    each rank its shard. Augmentation, mixup and dropout are drawn by each rank for itself, from the
    seed, the step and the rank, so a resumed fit needs no random state of the other ranks.
    Validation gathers predictions and targets: its loss and metrics are those of one process. The
    training loss is the mean over ranks. It equals the loss of one process if that is a mean over
    samples; class weights and Dice are normalised by each rank for itself.

    Batch norm becomes SyncBatchNorm on GPUs. On CPUs each rank normalises its own shard, and the
    running statistics are averaged after every epoch.

    Not fastai's `distrib_ctx`: it fails on gloo without CUDA, gives each rank a contiguous slice of
    the permutation padded with repeats, averages metrics with the padding counted, and wraps the
    model before `Schedule` freezes parts of it.
    """

    order = -20  # before augmentation draws random numbers
    trainable: Sequence[int] = ()  # IDs of the parameters that the current DDP reduces

    def before_fit(self) -> None:
        self.run = distributed.world_size() > 1
        if not self.run:
            return
        distributed.init_process_group()
        if self.dls.train.bs % distributed.world_size():
            raise ValueError(
                f"batch_size: expected a multiple of {distributed.world_size()}, the number of "
                f"processes, got {self.dls.train.bs}"
            )
        if self.dls.device.type == "cuda":
            # timm's converter keeps the activation of BatchNormAct2d; torch's own drops it.
            self.learn.model = convert_sync_batchnorm(self.model)

    def before_train(self) -> None:
        trainable = [id(p) for p in self.model.parameters() if p.requires_grad]
        if self.learn.ddp is None or trainable != self.trainable:
            self.trainable = trainable
            self.learn.ddp = None  # drop the old gradient hooks before new ones are registered
            # static_graph: some parameters get no gradient, for instance the head in `fit_masked`.
            self.learn.ddp = DistributedDataParallel(
                self.model, broadcast_buffers=False, static_graph=True
            )

    def before_batch(self) -> None:
        if not self.training:
            return
        device = self.dls.device
        # The prime keeps seeds of neighbouring steps and ranks apart.
        step = self.epoch * self.n_iter + self.iter
        seed = torch.initial_seed() + 1_000_003 * step + distributed.rank()
        self.own_random_state = ExitStack()
        self.own_random_state.enter_context(
            torch.random.fork_rng([device] if device.type == "cuda" else [])
        )
        torch.manual_seed(seed % 2**63)

    def after_pred(self) -> None:
        if self.training:
            self.own_random_state.close()
        else:
            size = self.dl.batch_len
            self.learn.pred = distributed.gather(self.pred, size)
            self.learn.yb = distributed.gather(self.yb, size)

    def before_backward(self) -> None:
        self.learn.loss = distributed.average(self.loss)

    def after_train(self) -> None:
        distribute_bn(self.model, distributed.world_size(), reduce=True)

    def after_fit(self) -> None:
        self.learn.ddp = None
