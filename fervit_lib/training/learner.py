"""The one Learner: a model, its batches and a strategy; and the one fit."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fastai.callback.schedule  # noqa: F401  (gives Learner its lr_find)
import numpy as np
import pandas as pd
import torch
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn

from fervit_lib.models import set_fused_attention
from fervit_lib.system import distributed
from fervit_lib.system.runtime import use_bf16
from fervit_lib.training.callbacks import Bf16, Curves, Ema, Fp16, KeepFrozenStill, StopOnNan
from fervit_lib.training.head_losses import head_penalties
from fervit_lib.training.metrics import scores
from fervit_lib.training.resume import KeepLast, ResumableLearner, read_state
from fervit_lib.training.schedule import EarlyStopping, Phase, Plateau, Schedule, lr_shape
from fervit_lib.training.share import Share
from fervit_lib.training.strategies import Strategy, parameter_groups

PRECISIONS = ("auto", "float32", "bf16", "fp16")
WEIGHT_DECAY = 0.01


class _MixUp(MixUp):
    stack_y = False  # fastai's asks for it even where a fit breaks off before it is set


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """N / (C · n_c) for each class: a rare class weighs as much as a common one. `labels` (N,) or (N, C) → (C,)."""
    counts = torch.bincount(labels, minlength=num_classes) if labels.ndim == 1 else labels.sum(0)
    return len(labels) / (num_classes * counts.float())


def build_learner(
    model: nn.Module,
    dls: DataLoaders,
    strategy: Strategy,
    *,
    folder: Path,
    freeze_stages: int = 6,
    weighted: bool = False,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    disagreement: str = "none",
    disagreement_weight: float = 0.1,
    head_margin: float = 0.0,
    margin_weight: float = 0.1,
    weight_decay: float = WEIGHT_DECAY,
    grad_clip: float = 0.0,
    ema: float = 0.0,
    precision: str = "auto",
    cbs: list[Any] | None = None,
) -> Learner:
    """A fastai Learner with the parameter groups of `strategy` and AdamW; `fit` trains it.

    It logs each epoch to `folder/metrics.csv`, and the curves to `folder/tensorboard/`.

    Args:
        freeze_stages: see `parameter_groups`.
        weighted: weigh the loss by class, see `class_weights`.
        label_smoothing: part of the target spread over all classes, in [0, 1).
        mixup: train on pairs of inputs and labels mixed by a share from Beta(mixup, mixup), Zhang et al. 2018; 0: off.
        disagreement, disagreement_weight, head_margin, margin_weight: see `head_losses.head_penalties`.
        grad_clip: largest norm of the gradient; 0: not clipped.
        ema: decay of the moving average of the weights, which is validated and kept instead of them; 0: none.
        precision: `auto` is bf16 where the device is fast in it, else float32; `fp16` (with a scaled loss) is for GPUs
            from before bf16.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and dls.device.type != "cuda":
        raise ValueError(
            f"precision: fp16 needs a GPU, and this is {dls.device}; use auto, float32 or bf16"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: expected a share in [0, 1), got {label_smoothing}")
    for name, value in {
        "mixup": mixup,
        "weight_decay": weight_decay,
        "grad_clip": grad_clip,
    }.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}: expected a number of 0 or more, got {value}")
    groups = parameter_groups(model, strategy, freeze_stages=freeze_stages)
    set_fused_attention(model, dls.device.type != "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    weight = class_weights(dls.train.targets, len(dls.classes)) if weighted else None
    # fastai's knows that hard labels cannot be mixed; torch's takes shares of classes, too.
    loss_func = CrossEntropyLossFlat if dls.train.targets.ndim == 1 else nn.CrossEntropyLoss
    learn = ResumableLearner(
        dls,
        model,
        loss_func=loss_func(weight=weight, label_smoothing=label_smoothing),
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, fused=True),
        splitter=lambda _: [group.parameters for group in groups],
        metrics=[accuracy, *scores()],
        wd=[weight_decay if group.weight_decay else 0.0 for group in groups],
        train_bn=False,
        path=folder,
        cbs=[
            KeepFrozenStill(),
            StopOnNan(),
            Share(),
            Curves(folder),
            *([_MixUp(mixup)] if mixup else []),
            *head_penalties(disagreement, disagreement_weight, head_margin, margin_weight),
            *([GradientClip(grad_clip)] if grad_clip else []),
            *([Ema(ema)] if ema else []),
            *([Bf16()] if use_bf16(precision, dls.device) else []),
            *([Fp16()] if precision == "fp16" else []),
            *(cbs or []),
        ],
    )
    learn.groups = groups
    return learn


def plan_phases(learn: Learner, strategy: Strategy, lr: float) -> list[Phase]:
    """The phases of a fit at the peak rate `lr`: one, or head first and then what `strategy` trains."""
    groups = learn.groups
    factors = np.array([group.lr_factor for group in groups])
    then = Phase(1 - strategy.head_first, lr * factors, sum(not group.trains for group in groups))
    if not strategy.head_first:
        return [then]
    return [
        Phase(
            strategy.head_first, lr * np.ones(len(groups)), sum(not group.first for group in groups)
        ),
        then,
    ]


def fit(
    learn: Learner,
    strategy: Strategy,
    *,
    epochs: int,
    lr: float | None = None,
    schedule: str = "one_cycle",
    warmup: float = 0.0,
    patience: int = 0,
    state: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> float:
    """Train as `strategy` says, going on from `state` where an interrupted fit of the same `settings` left it.

    Args:
        lr: peak rate of a part with factor 1; None: the strategy's own, or what `lr_find` suggests if it has none.
        schedule: see `schedule.lr_shape`; `plateau` halves the rates when macro-F1 stands still.
        warmup: share of the way on which the rates rise.
        patience: epochs without a better macro-F1 after which to stop; 0: never.
        state: file of the state after each epoch; None: none is kept.
        settings: everything that decides the fit, JSON: a state of other settings is not taken up.

    Returns:
        The peak rate.

    Raises:
        ValueError: the loss is no number any more, or memory ran out, with the parameter to lower.
    """
    if epochs < 1:
        raise ValueError(f"epochs: expected at least 1, got {epochs}")
    if lr is not None and not 0 <= lr < float("inf"):
        raise ValueError(f"lr: expected a rate above 0, or 0 for the strategy's own, got {lr}")
    if patience < 0:
        raise ValueError(f"patience: expected epochs, or 0 to train to the end, got {patience}")
    lr_shape(schedule, warmup)  # a wrong one is said before a rate is searched for
    identity = {"epochs": epochs, "lr": lr, **(settings or {})}
    learn.create_opt()
    peak = _peak_rate(learn, strategy, lr, state, identity)
    plan = Schedule(plan_phases(learn, strategy, peak), schedule, warmup)
    cbs = [plan]
    if schedule == "plateau":
        cbs.append(Plateau(plan))
    if patience:
        cbs.append(EarlyStopping(patience))
    if state:
        cbs.append(KeepLast(state, identity, peak))
    with naming_memory(learn, "samples", "lower batch_size, or take a smaller model"):
        learn.fit(epochs, cbs=cbs)
    return peak


@contextmanager
def naming_memory(learn: Learner, what: str, remedy: str) -> Iterator[None]:
    """Turn torch's out-of-memory error into a ValueError that says which parameter to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"batch_size: {learn.dls.train.bs} {what} in a step do not fit into the memory of {learn.dls.device} "
            f"({error}); {remedy}"
        ) from error


def _peak_rate(
    learn: Learner,
    strategy: Strategy,
    lr: float | None,
    state: Path | None,
    identity: dict[str, Any],
) -> float:
    if given := lr or strategy.lr:
        return given
    if state and (kept := read_state(state, identity)):  # found before the interruption
        return kept[1]["peak"]
    learn.freeze_to(sum(not group.first for group in learn.groups))
    # Of fastai's copy of the weights, which it and a kill leave there.
    learn.model_dir = f"lr_find-{distributed.rank()}"
    shutil.rmtree(learn.path / learn.model_dir, ignore_errors=True)
    with (
        distributed.as_single_process()
    ):  # a hundred batches, alike in every process: fastai searches in one only
        found = learn.lr_find(show_plot=False).valley
    shutil.rmtree(learn.path / learn.model_dir)
    learn.rates_tried = pd.DataFrame(
        {"lr": learn.recorder.lrs, "loss": [float(loss) for loss in learn.recorder.losses]}
    )
    learn.create_opt()  # nothing of the search is left in the moments
    return distributed.rank_zero_only(lambda: float(found))()
