"""What happens around a fit: best weights, curves for TensorBoard, frozen parts kept still."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import TrackerCallback
from torch.utils.tensorboard import SummaryWriter


class SaveBest(TrackerCallback):
    """Call `save()` whenever `monitor` is better than in any epoch before.

    Attributes:
        best_epoch: counted from 0.
        best_values: every metric of that epoch by name.
    """

    order = 61  # after the Recorder has this epoch's metrics

    def __init__(self, save: Callable[[], None], monitor: str = "macro_f1") -> None:
        super().__init__(monitor=monitor, comp=np.greater)
        self.save = save

    def after_epoch(self) -> None:
        super().after_epoch()
        if self.new_best:
            self.best_epoch = self.epoch
            self.best_values = dict(zip(self.recorder.metric_names[1:-1], self.recorder.values[-1], strict=True))
            self.save()


class TensorBoard(Callback):
    """The curves of `metrics.csv`, a point an epoch. (fastai's own logs every AdamW option and fails on unset ones.)"""

    order = 62

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before_fit(self) -> None:
        self.writer = SummaryWriter(str(self.folder))

    def after_epoch(self) -> None:
        for name, value in zip(self.recorder.metric_names[1:-1], self.recorder.values[-1], strict=True):
            self.writer.add_scalar(name, value, self.epoch)

    def after_fit(self) -> None:
        self.writer.close()


class Bf16(Callback):
    """Forward pass and loss under bf16 autocast. (fastai's knows only CUDA and turns itself off on a CPU.)"""

    order = 10  # as fastai's

    def before_batch(self) -> None:
        self.autocast = torch.autocast(self.x.device.type, torch.bfloat16)
        self.autocast.__enter__()

    def after_pred(self) -> None:
        if isinstance(self.pred, torch.Tensor):
            self.learn.pred = self.pred.float()  # losses and metrics in full precision

    def after_loss(self) -> None:
        self.autocast.__exit__(None, None, None)


class KeepFrozenStill(Callback):
    """Hold modules without a trainable parameter in eval mode: their norm statistics and dropout do not move."""

    def before_train(self) -> None:
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
