"""The one Learner: a model, its batches, what trains, loss and optimiser; and `fit`."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fastai.callback.schedule  # noqa: F401  (gives Learner its lr_find and fit_one_cycle)
import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Metric
from fastai.learner import Recorder as FastaiRecorder
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper
from fastcore.basics import noop
from torch import Tensor, nn

from fervit_lib.models import set_fused_attention
from fervit_lib.system import distributed
from fervit_lib.system.names import check_choice, check_range
from fervit_lib.system.runtime import use_bf16
from fervit_lib.training.callbacks import Curves, Ema, FitBar, KeepFrozenStill, StopOnNan
from fervit_lib.training.data_parallel import DataParallel
from fervit_lib.training.metrics import Recorder, classification_metrics
from fervit_lib.training.precision import PRECISIONS, Bf16, Fp16
from fervit_lib.training.resume import KeepLast, ResumableLearner, read_state
from fervit_lib.training.schedule import EarlyStopping, Phase, Plateau, Schedule, lr_shape
from fervit_lib.training.strategies import ParameterGroup, Strategy, parameter_groups


@dataclass(frozen=True)
class LossConfig:
    """The loss function of the classes: cross-entropy.

    To add a term, change `build` if the term needs only logits and targets; the validation loss
    then contains it, too. A term that needs more, such as the attention maps, is a callback that
    adds to the training loss, see `head_losses.HeadPenalty`.
    """

    weighted: bool = False  # multiply the loss of each sample by `class_weights` of its class
    label_smoothing: float = 0.0  # share of the target spread over all classes, in [0, 1)
    mixup: float = 0.0  # mix pairs of samples by Beta(mixup, mixup), Zhang et al. 2018; 0: off

    def __post_init__(self) -> None:
        check_range("label_smoothing", self.label_smoothing, 0, 1)
        check_range("mixup", self.mixup, 0)

    def build(self, dls: DataLoaders) -> Callable[..., Tensor]:
        """A function of logits (B, C), and of targets (B,) or, with soft labels, (B, C)."""
        weight = class_weights(dls.train.targets, len(dls.classes)) if self.weighted else None
        # Hard labels need fastai's class: its attribute `y_int` tells fastai's MixUp to mix the
        # losses of two labels rather than the labels, for which it sets `reduction` to "none".
        # Soft labels are shares, which can be mixed.
        loss_class = CrossEntropyLossFlat if dls.train.targets.ndim == 1 else nn.CrossEntropyLoss
        return loss_class(weight=weight, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and the precision of the forward pass."""

    weight_decay: float = 0.01  # of all parameters but position embeddings and CLS
    grad_clip: float = 0.0  # largest norm of the gradient; 0: not clipped
    ema: float = 0.0  # decay of a moving average of the weights, validated and saved; 0: none
    precision: str = "auto"  # auto (bf16 where the device is fast in it), float32, bf16, fp16 (GPU)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_range("ema", self.ema, 0, 1)
        check_range("weight_decay", self.weight_decay, 0)
        check_range("grad_clip", self.grad_clip, 0)

    def build_callbacks(self, device: torch.device) -> list[Callback]:
        """The callbacks for these settings on `device`."""
        callbacks = []
        if self.grad_clip:
            callbacks.append(GradientClip(self.grad_clip))
        if self.ema:
            callbacks.append(Ema(self.ema))
        if use_bf16(self.precision, device):
            callbacks.append(Bf16())
        if self.precision == "fp16":
            if device.type != "cuda":
                raise ValueError(
                    f"precision: fp16 needs a GPU, got device {device}; use auto, float32 or bf16"
                )
            callbacks.append(Fp16())
        return callbacks


class _MixUp(MixUp):
    stack_y = False  # fastai reads it even if a fit is interrupted before it is set

    def before_batch(self) -> None:
        # Drawn on the device: fastai would wait for a GPU to bring the draws to it.
        with self.dls.device:
            super().before_batch()


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """N / (C · n_c) per class, so that all classes contribute equally.

    Args:
        labels: (N,) classes, or (N, C) shares.

    Returns:
        (C,).
    """
    counts = torch.bincount(labels, minlength=num_classes) if labels.ndim == 1 else labels.sum(0)
    # Shares of votes are counted as fractions of faces.
    return len(labels) / (num_classes * counts.float())


def build_learner(
    model: nn.Module,
    dls: DataLoaders,
    strategy: Strategy | Sequence[ParameterGroup],
    loss: LossConfig | Callable[..., Tensor] = LossConfig(),  # noqa: B008  (frozen)
    optim: OptimConfig = OptimConfig(),  # noqa: B008
    *,
    folder: Path,
    metrics: Sequence[Metric] | None = None,
    cbs: Sequence[Callback] = (),
) -> Learner:
    """A fastai Learner with AdamW. It writes `metrics.csv` and `tensorboard/` to `folder`.

    Args:
        dls: of `TensorBatches` or `PeopleBatches`.
        strategy: a strategy with its defaults, or the result of `parameter_groups`, which takes the
            strategy's options.
        loss: a `LossConfig`, or any function of predictions and targets.
        metrics: computed on the validation split; None: `classification_metrics`.
        cbs: more callbacks. A `FitBar` among them replaces the default one.
    """
    groups = parameter_groups(model, strategy) if isinstance(strategy, Strategy) else strategy
    set_fused_attention(model, dls.device.type != "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    # fastai calls them by their `order`, not in this order.
    callbacks = [KeepFrozenStill(), StopOnNan(), DataParallel(), Curves(folder)]
    if isinstance(loss, LossConfig):
        if loss.mixup:
            callbacks.append(_MixUp(torch.tensor(loss.mixup, device=dls.device)))
        loss = loss.build(dls)
    callbacks += [*optim.build_callbacks(dls.device), *cbs]
    if not any(isinstance(callback, FitBar) for callback in callbacks):
        callbacks.append(FitBar())
    learn = ResumableLearner(
        dls,
        model,
        loss_func=loss,
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, fused=True),
        splitter=lambda _: [group.parameters for group in groups],
        metrics=classification_metrics() if metrics is None else metrics,
        wd=[optim.weight_decay if group.weight_decay else 0.0 for group in groups],
        train_bn=False,  # batch norm of frozen groups stays frozen
        path=folder,
        cbs=callbacks,
    )
    # `FitBar` and `Curves` show what the ProgressCallback and the logger print.
    learn.remove_cbs([FastaiRecorder, ProgressCallback])
    learn.add_cb(Recorder())
    learn.logger = noop
    learn.groups = groups
    return learn


def plan_phases(learn: Learner, strategy: Strategy, lr: float) -> list[Phase]:
    """The phases of a fit at the peak rate `lr`: one, or the two of fastai's `fine_tune`."""
    groups = learn.groups
    factors = np.array([group.lr_factor for group in groups])
    # Groups are sorted, frozen ones first: their number is all that `freeze_to` needs.
    frozen = sum(not group.trains for group in groups)
    if not strategy.fine_tune:
        return [Phase(0, lr * factors, frozen)]
    first = Phase(0, lr * np.ones(len(groups)), sum(not g.first for g in groups), pct_start=0.99)
    return [first, Phase(1, lr / 2 * factors, frozen, pct_start=0.3, div=5.0)]


def fit(
    learn: Learner,
    strategy: Strategy,
    *,
    epochs: int,
    lr: float | None = None,
    lr_find: bool = False,
    schedule: str = "one_cycle",
    warmup: float = 0.0,
    patience: int = 0,
    state: Path | None = None,
    settings: dict | None = None,
) -> float:
    """Train by `strategy`. An interrupted fit of the same `settings` resumes from `state`.

    Args:
        strategy: gives the peak rate and the phases; which parameters train, and the factors of
            their rates, are in the groups that `learn` was built with.
        lr: peak rate of groups with factor 1; None or 0: the strategy's.
        lr_find: take the rate that fastai's `lr_find` suggests, for the parts that train first.
        schedule: see `schedule.lr_shape`; `plateau` halves the rates, see `schedule.Plateau`.
        warmup: share of the fit in which the rates rise.
        patience: epochs without a better macro-F1 after which the fit stops; 0: never.
        state: file with the state after each epoch; None: not written.
        settings: everything else that determines the fit, as JSON values.

    Returns:
        The peak rate.

    Raises:
        ValueError: the loss became NaN or inf; names the parameter to lower.
    """
    check_range("epochs", epochs, 2 if strategy.fine_tune else 1)
    check_range("lr", lr or 0, 0)
    if lr and lr_find:
        raise ValueError(f"lr: expected 0 with lr_find, which searches the rate, got {lr}")
    check_range("patience", patience, 0)
    lr_shape(schedule, warmup)  # raises before a rate is searched
    identity = {"epochs": epochs, "lr": lr, "lr_find": lr_find, **(settings or {})}
    learn.create_opt()  # a new optimiser: no moments of an earlier fit
    peak = lr or strategy.lr
    if lr_find:
        peak = _find_lr(learn, plan_phases(learn, strategy, 1.0)[0], state, identity)
    plan = Schedule(plan_phases(learn, strategy, peak), schedule, warmup)
    cbs = [plan]
    if schedule == "plateau":
        cbs.append(Plateau(plan))
    if patience:
        cbs.append(EarlyStopping(patience))
    if state:
        cbs.append(KeepLast(state, identity, peak))
    learn.fit(epochs, cbs=cbs)
    return peak


def _find_lr(learn: Learner, phase: Phase, state: Path | None, identity: dict) -> float:
    """The rate that `lr_find` suggests for what trains in `phase`, or the resumed fit's."""
    if state and (saved := read_state(state, identity)):
        return saved[1]["peak"]
    learn.freeze_to(phase.frozen_groups)
    # All ranks search alike, each on whole batches: fastai's search works on a single process only.
    # It saves the weights before, and loads them afterwards.
    with tempfile.TemporaryDirectory() as folder, distributed.as_single_process():
        learn.model_dir = folder
        peak = learn.lr_find(show_plot=False).valley
    learn.rates_tried = pd.DataFrame(
        {"lr": learn.recorder.lrs, "loss": list(map(float, learn.recorder.losses))}
    )
    learn.create_opt()  # clears the moments of the search
    # It tries one rate for all groups: the largest of the fit's. Rounding may differ between ranks,
    # and all must train at one rate.
    return distributed.rank_zero_only(lambda: float(peak / phase.lr_max.max()))()
