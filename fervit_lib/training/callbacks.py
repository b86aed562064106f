"""Callbacks of every fit: progress bar, curves, best weights, weight averaging, frozen modules."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import TrackerCallback
from fastai.learner import Learner
from torch import Tensor

from fervit_lib.system import distributed
from fervit_lib.system.atomic import write_text
from fervit_lib.system.errors import explain_write_error
from fervit_lib.system.progress import progress


def latest_metrics(learn: Learner) -> dict[str, float]:
    """Losses and metrics of the latest epoch by name."""
    names = learn.recorder.metric_names[1:-1]  # without epoch and time
    return dict(zip(names, map(float, learn.recorder.values[-1]), strict=True))


class FitCallback(Callback):
    """A callback that is inactive during `lr_find`."""

    @property
    def run(self) -> bool:
        return not hasattr(self.learn, "lr_finder")

    @run.setter
    def run(self, value: bool) -> None:
        pass  # fastai sets it to True after every fit


class FitBar(FitCallback):
    """One progress bar for a whole fit: samples per second, time left, latest losses and scores.

    fastai's bar shows no rate, and fails if a fit starts at a later epoch.
    """

    order = 95  # after the Recorder (metrics of an epoch) and `KeepLast` (epoch to resume from)

    def __init__(self, what: str = "train", unit: str = " faces") -> None:
        self.what = what
        self.unit = unit

    def before_fit(self) -> None:
        batches = len(self.dls.train)
        size = self.dls.train.bs
        self.bar = progress(
            total=self.n_epoch * batches * size,
            initial=self.learn.first_epoch * batches * size,
            desc=self.what,
            unit=self.unit,
        )

    def after_batch(self) -> None:
        if self.training:
            self.bar.update(self.dl.batch_len)

    def after_epoch(self) -> None:
        metrics = list(latest_metrics(self.learn).items())[:4]
        shown = [f"{name} {value:.3f}" for name, value in metrics]
        self.bar.set_postfix_str(f"epoch {self.epoch + 1} of {self.n_epoch}: {', '.join(shown)}")

    def after_fit(self) -> None:
        self.bar.close()


class SaveBest(TrackerCallback):
    """Call `save()` whenever `monitor` is better than in all epochs before.

    fastai's SaveModelCallback pickles, forgets its best value at a resume, and keeps no metrics.

    Args:
        save_epoch: called after every epoch with its number, counted from 1; None: nothing is.

    Attributes:
        best_epoch: counted from 0.
        best_values: every metric of that epoch by name.
    """

    order = 61  # after the Recorder has the metrics, before `Ema` takes out the averaged weights
    resumed = ("best", "best_epoch", "best_values")

    def __init__(
        self,
        save: Callable[[], None],
        monitor: str = "macro_f1",
        save_epoch: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(monitor=monitor, comp=np.greater)
        self.save = save
        self.save_epoch = save_epoch
        self.best_epoch = -1
        self.best_values: dict[str, float] = {}

    def after_epoch(self) -> None:
        super().after_epoch()
        if self.save_epoch:
            self.save_epoch(self.epoch + 1)
        if self.new_best:
            self.best_epoch = self.epoch
            self.best_values = latest_metrics(self.learn)
            self.save()


class RowsCallback(FitCallback):
    """A callback that collects rows during a fit; a resumed fit keeps them."""

    resumed = ("rows",)
    rows: list[dict[str, float]]

    def before_fit(self) -> None:
        self.rows = []


# The tags that users of earlier tools look for; other metrics are `Validation/<name>`.
_TAGS = {
    "train_loss": "Loss/Train",
    "valid_loss": "Loss/Validation",
    "macro_f1": "Validation/f1_macro",
    "learning_rate": "Learning_Rate",
}


class Curves(RowsCallback):
    """Write `metrics.csv` and `tensorboard/` after every epoch.

    fastai's CSVLogger restarts its file, and writes it on every rank. torch's SummaryWriter names
    its file after the host, and writes in a thread, whose errors nobody sees.

    Attributes:
        rows: epoch, losses, metrics, learning_rate (of the head) and seconds.
    """

    order = 62

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before_epoch(self) -> None:
        self.started = time.perf_counter()

    def after_epoch(self) -> None:
        row = {"epoch": self.epoch, **latest_metrics(self.learn)}
        row["learning_rate"] = self.opt.hypers[-1]["lr"]
        self.rows.append({**row, "seconds": time.perf_counter() - self.started})
        self._write()

    def after_fit(self) -> None:
        if self.rows and self.learn.first_epoch == self.n_epoch:
            self._write()  # of a fit that was complete already, from its state

    @distributed.rank_zero_only
    def _write(self) -> None:
        folder = self.folder / "tensorboard"
        with explain_write_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_events(folder / "events.out.tfevents", self.rows)
        write_text(self.folder / "metrics.csv", pd.DataFrame(self.rows).to_csv(index=False))


def write_events(file: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write a file for TensorBoard, with a step for each of `rows`, the last of which just ended.

    The file of an interrupted fit may end with a part of an epoch, so it is written from its start.
    It is not replaced, and a step has the same number of bytes each time: a TensorBoard that is
    running goes on where it had read to.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # slow to import
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = [Event(file_version="brain.Event:2")]
    ended = datetime.now(UTC).timestamp() - sum(row["seconds"] for row in rows)
    for row in rows:
        ended += row["seconds"]
        values = [
            {"tag": _TAGS.get(name, f"Validation/{name}"), "simple_value": value}
            for name, value in row.items()
            if name not in ("epoch", "seconds")
        ]
        step = int(row["epoch"])
        events.append(Event(wall_time=ended, step=step, summary={"value": values}))
    with file.open("wb") as stream:
        for event in events:
            RecordWriter(stream).write(event.SerializeToString())


class Steps(RowsCallback):
    """Record learning rate and gradient norm over the steps of a fit.

    The norm is that before clipping. It stays on the device until the epoch ends.

    Attributes:
        rows: step (counted from 1), learning_rate (of the head), gradient_norm; means over
            neighbouring steps, so that an epoch has at most 50 rows.
    """

    order = 10.5  # between fp16 (10), which restores the gradient's scale, and GradientClip (11)

    def before_train(self) -> None:
        self.rates: list[float] = []
        self.norms: list[Tensor] = []

    def before_step(self) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.norms.append(torch.nn.utils.get_total_norm(gradients))
        self.rates.append(self.opt.hypers[-1]["lr"])

    def after_train(self) -> None:
        if not self.norms:
            return
        first = self.epoch * self.n_iter + 1
        recorded = pd.DataFrame(
            {
                "step": np.arange(first, first + len(self.norms)),
                "learning_rate": self.rates,
                "gradient_norm": torch.stack(self.norms).tolist(),
            }
        )
        parts = np.arange(len(recorded)) * min(50, len(recorded)) // len(recorded)
        self.rows += recorded.groupby(parts).mean().to_dict("records")


class Ema(FitCallback):
    """Exponential moving average of the weights, which replaces them in validation and checkpoints.

    The decay warms up as min(decay, (1 + step) / (10 + step)).

    Not timm's ModelEmaV3: it keeps no step for an exact resume, and holds a second model, where
    validation and `SaveBest` here see the averaged weights in the model itself.
    """

    order = 65  # after SaveBest: puts the trained weights back
    resumed = ("steps",)

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.swapped = False

    def before_fit(self) -> None:
        self.weights = list(self.model.parameters())
        self.average = self.resumed_tensors = [p.detach().clone() for p in self.weights]
        self.steps = 0

    def after_step(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        # One call for all parameters, rather than a small kernel for each.
        torch._foreach_lerp_(self.average, [p.detach() for p in self.weights], 1 - decay)

    def _swap(self) -> None:
        for parameter, average in zip(self.weights, self.average, strict=True):
            # Only the storage: optimiser and DDP hold the parameter objects.
            parameter.data, average.data = average.data, parameter.data
        self.swapped = not self.swapped

    def before_validate(self) -> None:
        self._swap()

    def after_epoch(self) -> None:
        if self.swapped:
            self._swap()

    def after_fit(self) -> None:
        self.after_epoch()  # an interrupted validation leaves the averaged weights in the model


class StopOnNan(FitCallback):
    """Raise a ValueError if the training loss is NaN or inf; the last checkpoint is kept.

    From the batch of that loss on, AdamW skips its updates, so that no weight becomes NaN by it.
    The host does not wait for the loss of each batch: on a GPU, it may see it some batches later,
    and at the latest at the end of the epoch, before anything is saved.

    fastai's TerminateOnNaNCallback waits for every batch, and ends the fit without an error.
    """

    def before_fit(self) -> None:
        # AdamW skips an update where `found_inf` is 1; torch has it for the gradients of fp16.
        self.bad = self.opt.opt.found_inf = torch.zeros((), device=self.dls.device)
        self.on_host = torch.zeros((), pin_memory=self.bad.is_cuda)
        self.seen = self.on_host.numpy()  # the same memory

    def before_backward(self) -> None:
        self.bad.logical_or_(~self.loss.isfinite())
        self.on_host.copy_(self.bad, non_blocking=True)
        # What has arrived so far. Several ranks would see it in different batches, and wait for
        # each other.
        if self.seen and distributed.world_size() == 1:
            self._stop()

    def after_train(self) -> None:
        # A finite loss may have a gradient that is not.
        norm = torch.nn.utils.get_total_norm([p.detach() for p in self.model.parameters()])
        if self.bad + ~norm.isfinite():
            self._stop()

    def after_fit(self) -> None:
        self.opt.opt.found_inf = None

    def _stop(self) -> None:
        batch = sum(map(math.isfinite, self.recorder.losses))
        images = ""
        if hasattr(self.dl, "image_names") and batch < self.n_iter:
            images = f"; the images: {', '.join(self.dl.image_names(batch))}"
        raise ValueError(
            f"loss is NaN or inf in epoch {self.epoch}, batch {batch}: the learning rate is too "
            f"high, or the inputs are not finite; lower lr, or set grad_clip=1{images}"
        )


class KeepFrozenStill(Callback):
    """Keep modules without a trainable parameter in eval mode: no dropout, fixed norm statistics.

    fastai's `train_bn` covers only batch norm, and not its running statistics.
    """

    def before_train(self) -> None:
        # After fastai has set the complete model to train mode, which it does before every epoch.
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
