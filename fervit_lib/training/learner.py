"""The one Learner: a model, its batches and a strategy."""

from functools import partial
from pathlib import Path
from typing import Any

import fastai.callback.schedule  # noqa: F401  (gives Learner its fit_one_cycle)
import numpy as np
import torch
from fastai.callback.mixup import MixUp
from fastai.callback.progress import CSVLogger
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import AccumMetric, accuracy
from fastai.optimizer import OptimWrapper
from sklearn.metrics import f1_score
from torch import Tensor, nn

from fervit_lib.runtime import fast_bf16
from fervit_lib.training.callbacks import Bf16, KeepFrozenStill, TensorBoard
from fervit_lib.training.strategies import Strategy, parameter_groups

PRECISIONS = ("auto", "float32", "bf16")
WEIGHT_DECAY = 0.01


def macro_f1() -> AccumMetric:
    """Mean of the per-class F1 over the whole validation set."""
    score = partial(f1_score, average="macro", zero_division=0)
    return AccumMetric(score, dim_argmax=-1, to_np=True, invert_arg=True, name="macro_f1")


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """N / (C · n_c) for each class: a rare class weighs as much as a common one. `labels` (N,) → (C,)."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts.float())


def build_learner(
    model: nn.Module,
    dls: DataLoaders,
    strategy: Strategy,
    *,
    folder: Path,
    lr: float | None = None,
    weighted: bool = False,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    precision: str = "auto",
    weight_decay: float = WEIGHT_DECAY,
    cbs: list[Any] | None = None,
) -> Learner:
    """A fastai Learner that trains what `strategy` says with AdamW; `fit_one_cycle(n, learn.lr_max)` fits it.

    It logs each epoch to `folder/metrics.csv` and `folder/tensorboard/`.

    Args:
        lr: base rate; None is the strategy's own.
        weighted: weigh the loss by class, see `class_weights`.
        mixup: train on pairs of codes and labels mixed by a share from Beta(mixup, mixup), Zhang et al. 2018; 0: off.
        precision: `auto` is bf16 where the device is fast in it, else float32.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    folder.mkdir(parents=True, exist_ok=True)
    groups = parameter_groups(model, strategy, lr)
    weight = class_weights(dls.train.targets, len(dls.classes)) if weighted else None
    learn = Learner(
        dls,
        model,
        loss_func=CrossEntropyLossFlat(weight=weight, label_smoothing=label_smoothing),
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, fused=True),
        splitter=lambda _: [group.parameters for group in groups],
        metrics=[accuracy, macro_f1()],
        wd=[weight_decay if group.weight_decay else 0.0 for group in groups],
        train_bn=False,
        path=folder,
        cbs=[
            KeepFrozenStill(),
            CSVLogger(fname="metrics.csv"),
            TensorBoard(folder / "tensorboard"),
            *([MixUp(mixup)] if mixup else []),
            *(cbs or []),
        ],
    )
    learn.lr_max = np.array([group.lr for group in groups])
    learn.freeze_to(sum(not group.trains for group in groups))
    if precision == "bf16" or (precision == "auto" and fast_bf16(dls.device)):
        learn.add_cb(Bf16())
    return learn
