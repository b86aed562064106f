"""What happens around a fit: curves, best weights, frozen parts kept still, averages, and a stop where sense ends."""

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.tracker import TrackerCallback
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.errors import explain_write_error
from fervit_lib.system.progress import progress


class FitBar(Callback):
    """One bar over a whole fit: samples a second, time left, and the losses and scores of the latest epoch.

    fastai's has no rate, and breaks where a fit begins at a later epoch.
    """

    order = 60  # after the Recorder has this epoch's metrics

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit, self.bar = what, unit, None

    def before_train(self) -> None:
        if self.bar is None:  # not before the fit: only now is it known where it goes on
            searching, batches = hasattr(self.learn, "lr_finder"), len(self.dls.train)
            total = self.lr_finder.num_it if searching else self.n_epoch * batches
            size, what = self.dls.train.bs, "find lr" if searching else self.what
            done = self.learn.first_epoch * batches * size
            self.bar = progress(total=total * size, initial=done, desc=what, unit=self.unit)

    def after_batch(self) -> None:
        if self.training and self.bar is not None:
            self.bar.update(len(self.yb[0]))  # not xb, of which a process may have a part

    def after_epoch(self) -> None:
        if self.bar is not None and not hasattr(self.learn, "lr_finder"):
            names, values = self.recorder.metric_names[1:5], self.recorder.values[-1][:4]
            said = [
                f"{name} {value:.3f}"
                for name, value in zip(names, values, strict=False)
                if name != "time"
            ]
            self.bar.set_postfix_str(f"epoch {self.epoch + 1} of {self.n_epoch}: {', '.join(said)}")

    def after_fit(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class SaveBest(TrackerCallback):
    """Call `save()` whenever `monitor` is better than in any epoch before.

    Attributes:
        best_epoch: counted from 0.
        best_values: every metric of that epoch by name.
    """

    order = 61  # after the Recorder has this epoch's metrics, before `Ema` takes the averaged weights out again

    def __init__(self, save: Callable[[], None], monitor: str = "macro_f1") -> None:
        super().__init__(monitor=monitor, comp=np.greater)
        self.save = save
        self.best_epoch = -1
        self.best_values: dict[str, float] = {}

    def after_epoch(self) -> None:
        super().after_epoch()
        if self.new_best:
            self.best_epoch = self.epoch
            self.best_values = dict(
                zip(self.recorder.metric_names[1:-1], self.recorder.values[-1], strict=True)
            )
            self.save()

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": float(self.best),
            "best_epoch": self.best_epoch,
            "best_values": self.best_values,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.best_values = (
            state["best"],
            state["best_epoch"],
            state["best_values"],
        )


class Curves(Callback):
    """`metrics.csv` and TensorBoard: a row, and a point a curve, an epoch. A fit that goes on keeps earlier rows."""

    order = 62

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []

    def before_fit(self) -> None:
        self.run = not hasattr(self.learn, "lr_finder")
        if self.run:
            self.rows = []

    def before_epoch(self) -> None:
        self.started = time.perf_counter()

    def after_epoch(self) -> None:
        names = self.recorder.metric_names[1:-1]
        row = {"epoch": self.epoch} | dict(
            zip(names, map(float, self.recorder.values[-1]), strict=True)
        )
        self.rows.append(row | {"seconds": time.perf_counter() - self.started})
        self._write_table()

    def after_fit(self) -> None:
        if self.run and self.rows:
            self._write_tensorboard()
        self.run = True

    @distributed.rank_zero_only
    def _write_table(self) -> None:
        with atomic_write(self.folder / "metrics.csv") as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False)

    @distributed.rank_zero_only
    def _write_tensorboard(self) -> None:
        folder = self.folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)  # of a run before this one, or half written
        with explain_write_error(folder), SummaryWriter(str(folder)) as writer:
            for row in self.rows:
                for name, value in row.items():
                    if name not in ("epoch", "seconds"):
                        writer.add_scalar(name, value, int(row["epoch"]))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


class Ema(Callback):
    """A moving average of the weights, which is what is validated and kept as best.

    The decay warms up as min(decay, (1 + steps) / (10 + steps)), so that the start is soon forgotten.
    """

    order = 65  # takes the average out again after SaveBest

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema: expected a decay in (0, 1), got {decay}")
        self.decay, self.steps, self.swapped = decay, 0, False

    def before_fit(self) -> None:
        self.run = not hasattr(self.learn, "lr_finder")
        self.weights = list(self.model.parameters())
        self.average, self.steps = [p.detach().clone() for p in self.weights], 0

    def after_step(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.weights], 1 - decay)

    def _swap(self) -> None:
        for parameter, average in zip(self.weights, self.average, strict=True):
            parameter.data, average.data = average.data, parameter.data
        self.swapped = not self.swapped

    def before_validate(self) -> None:
        self._swap()

    def after_epoch(self) -> None:
        if self.swapped:
            self._swap()

    def after_fit(self) -> None:
        if self.swapped:
            self._swap()
        self.run = True

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]

    def tensors(self) -> dict[str, Tensor]:
        return {str(i): average for i, average in enumerate(self.average)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for i, average in enumerate(self.average):
            average.copy_(tensors[str(i)])


class StopOnNan(Callback):
    """Raise where the loss is no number any more; the last checkpoint stays as it is."""

    order = -9

    def before_fit(self) -> None:
        self.run = not hasattr(self.learn, "lr_finder")  # which goes on until the loss explodes

    def after_fit(self) -> None:
        self.run = True

    def after_loss(self) -> None:
        if self.training and not math.isfinite(self.loss.item()):
            raise ValueError(
                f"loss is {self.loss.item()} in epoch {self.epoch}, batch {self.iter}: the learning rate is too high "
                f"or the inputs hold no numbers; lower lr, or clip gradients with grad_clip=1"
            )


def enter_bf16(model: nn.Module, device: torch.device) -> None:
    """Let `model` compute under bf16 autocast, until `leave_bf16`.

    On a CPU depthwise convolutions stay in float32: with a stride, their gradient has no fast bf16 kernel there and
    takes eight times as long. They are few of the operations, but were a fifth of a student's step.
    """
    for convolution in _depthwise(model) if device.type == "cpu" else []:
        convolution.forward = _in_float32(convolution.forward)
    model.forward = torch.autocast(device.type, torch.bfloat16)(model.forward)


def leave_bf16(model: nn.Module) -> None:
    """Let `model` compute as before `enter_bf16`."""
    for module in (model, *_depthwise(model)):
        module.__dict__.pop("forward", None)


def _depthwise(model: nn.Module) -> list[nn.Conv2d]:
    return [
        m for m in model.modules() if isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels
    ]


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    whole = torch.autocast("cpu", enabled=False)(forward)
    return lambda images: whole(images.float())


class Bf16(Callback):
    """The model's forward pass under bf16 autocast while it is fitted; losses and metrics in full precision.

    fastai's knows only CUDA and turns itself off on a CPU. Autocast is entered and left within one call of the model,
    so that a fit that breaks off in the middle of a batch does not leave it on.
    """

    order = 10  # as fastai's

    def before_fit(self) -> None:
        self.after_fit()  # what an interrupted fit left
        enter_bf16(self.model, self.dls.device)

    def after_pred(self) -> None:
        if isinstance(self.pred, torch.Tensor):
            self.learn.pred = self.pred.float()

    def after_fit(self) -> None:
        leave_bf16(self.model)


class Fp16(MixedPrecision):
    """fastai's fp16 with a scaled loss; the scale goes on where an interrupted fit left it."""

    def state_dict(self) -> dict[str, Any]:
        return self.learn.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learn.scaler.load_state_dict(state)


class KeepFrozenStill(Callback):
    """Hold modules without a trainable parameter in eval mode: their norm statistics and dropout do not move."""

    def before_train(self) -> None:
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
