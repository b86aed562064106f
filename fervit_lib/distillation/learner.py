"""The Learner that distils: targets from teacher and detector beside the masks, and the student's fit."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn

from fervit_lib.distillation.cache import BoundedCache, content_key, model_key
from fervit_lib.distillation.data import CountEpochs
from fervit_lib.distillation.features import OnnxFeatures
from fervit_lib.distillation.losses import TERMS, DistillLoss, LossWeights, temperature_at
from fervit_lib.distillation.metrics import all_metrics
from fervit_lib.distillation.student import TappedStudent, frozen_groups, parameter_groups
from fervit_lib.models.segmentation import freeze
from fervit_lib.system import distributed
from fervit_lib.system.runtime import use_bf16
from fervit_lib.training.callbacks import Bf16, Curves, KeepFrozenStill, StopOnNan
from fervit_lib.training.learner import naming_memory
from fervit_lib.training.resume import KeepLast, ResumableLearner
from fervit_lib.training.schedule import Phase, Schedule
from fervit_lib.training.share import Share

MONITOR = "fg_iou"


class Targets:
    """What teacher and detector say of images, kept by the images' content.

    Args:
        teacher: frozen here, in eval mode; never in an optimiser. None: no outputs.
        source: of features; None: none.
        cache: shared by all fits of one experiment; None: everything is computed anew.
        bf16: compute the teacher in bf16.
        shuffle: give each image the features of another of its batch: the control that has their statistics only.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        source: OnnxFeatures | None = None,
        *,
        cache: BoundedCache | None = None,
        bf16: bool = False,
        shuffle: bool = False,
    ) -> None:
        self.teacher, self.source = freeze(teacher) if teacher else None, source
        self.cache, self.bf16, self.shuffle = (
            BoundedCache(0) if cache is None else cache,
            bf16,
            shuffle,
        )
        self._keys: dict[str, str] = {}
        if teacher:
            self._keys["teacher"] = content_key(model_key(teacher).encode(), str(bf16).encode())
        if source:
            self._keys["features"] = content_key(
                source.key.encode(), ",".join(source.providers).encode()
            )

    @torch.no_grad()
    def logits(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """The teacher's, (B, 1, S, S) float32. Raises ValueError where there is none."""
        if (teacher := self.teacher) is None:
            raise ValueError(
                "teacher: expected one, for its outputs, got none; name one as `teacher`"
            )

        def compute(images: Tensor) -> Tensor:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
                return teacher(images).float()

        return self._kept("teacher", compute, images, keys)

    def features(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """The detector's, (B, C, h, w) float32; of other images where they are shuffled. Raises as `logits`."""
        if self.source is None:
            raise ValueError(
                "source: expected a detector, for its features, got none; name one as `detector`"
            )
        found = self._kept("features", self.source, images, keys)
        return found.roll(1, 0) if self.shuffle else found

    def _kept(
        self, kind: str, compute: Callable[[Tensor], Tensor], images: Tensor, keys: Sequence[str]
    ) -> Tensor:
        if not self.cache.max_bytes:
            return distributed.in_shares(compute, images)
        full = [(kind, self._keys[kind], key) for key in keys]
        found = {i: kept for i, key in enumerate(full) if (kept := self.cache.get(key)) is not None}
        if missing := [i for i in range(len(full)) if i not in found]:
            chosen = images if len(missing) == len(images) else images[missing]
            for i, value in zip(missing, distributed.in_shares(compute, chosen), strict=True):
                found[i] = (value,)
                self.cache.put(full[i], (value,))
        return torch.stack([found[i][0] for i in range(len(full))])


class GiveTargets(Callback):
    """Put the teacher's logits and the detector's features beside the masks, where the loss or a metric reads them."""

    order = -8  # on images as they are, before autocast

    def __init__(self, targets: Targets, weights: LossWeights) -> None:
        self.targets, self.weights = targets, weights

    def before_batch(self) -> None:
        masks, keys = self.yb
        logits = features = None
        if self.targets.teacher is not None and (self.weights.outputs or not self.training):
            logits = self.targets.logits(self.x, keys)
        if (
            self.targets.source is not None
            and self.weights.feature
            and self.model.projector is not None
        ):
            features = self.targets.features(self.x, keys)
        self.learn.yb = (masks, logits, features)


class StopOnBadBatch(StopOnNan):
    """As `StopOnNan`, and name the images of the batch."""

    def after_loss(self) -> None:
        try:
            super().after_loss()
        except ValueError as error:
            raise ValueError(
                f"{error}; the images: {', '.join(self.dls.train.last_names)}"
            ) from error


class Anneal(Callback):
    """Lower the temperature over the epochs, and unfreeze the encoder's stages; the optimiser keeps its state."""

    order = 61  # after the Schedule, before anything is put into training mode

    def __init__(self, temperature: tuple[float, float, str], encoder_training: str) -> None:
        self.temperature, self.encoder_training = temperature, encoder_training

    def before_epoch(self) -> None:
        start, end, schedule = self.temperature
        progress = self.epoch / max(1, self.n_epoch - 1)
        self.learn.loss_func.temperature = temperature_at(progress, start, end, schedule)
        groups = len(self.opt.param_lists)
        frozen = frozen_groups(
            self.encoder_training, self.model.tap, groups, self.epoch / self.n_epoch
        )
        self.opt.freeze_to(frozen)


def build_distiller(
    model: TappedStudent,
    dls: DataLoaders,
    targets: Targets,
    weights: LossWeights,
    *,
    folder: Path,
    temperature: tuple[float, float, str] = (3.0, 1.0, "linear"),
    encoder_training: str = "full",
    weight_decay: float = 0.01,
    grad_clip: float = 1.0,
    precision: str = "auto",
    cbs: Sequence[Callback] = (),
    what: str = "distil",
) -> Learner:
    """A fastai Learner over AdamW for a student; `fit_distiller` trains it. `metrics.csv` etc. go to `folder`.

    Args:
        dls: as `people_dls`.
        weights: of the loss; a term of weight 0 costs nothing.
        temperature: of the KL at the first and last epoch, and how it goes between.
        encoder_training: see `student.frozen_groups`.
        grad_clip: largest norm of the gradient; 0: not clipped.
        precision: auto (bf16 where the device is fast in it), float32 or bf16.
        what: is trained, for the bar.

    Raises:
        ValueError: a setting out of range, or a weight for which there is no teacher or no features.
    """
    if precision not in ("auto", "float32", "bf16"):
        raise ValueError(f"precision: expected auto, float32 or bf16, got {precision!r}")
    if weights.outputs and targets.teacher is None:
        raise ValueError(
            "kl_weight, mse_weight: expected 0 without a teacher; name one as `teacher`"
        )
    if weights.feature and (targets.source is None or model.projector is None):
        raise ValueError("feature_weight: expected 0 without a detector; name one as `detector`")
    temperature_at(0.0, *temperature)  # a wrong schedule is said now
    frozen_groups(encoder_training, model.tap, 2, 0.0)
    folder.mkdir(parents=True, exist_ok=True)
    bf16 = use_bf16(precision, dls.device)
    return ResumableLearner(
        dls,
        model.to(dls.device),
        loss_func=DistillLoss(weights, temperature[0]),
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, fused=True),
        splitter=parameter_groups,
        metrics=all_metrics(tuple(n for n in TERMS if n in ("bce", "dice") or getattr(weights, n))),
        wd=weight_decay,
        train_bn=False,
        path=folder,
        cbs=[
            GiveTargets(targets, weights),
            KeepFrozenStill(),
            StopOnBadBatch(),
            CountEpochs(),
            Anneal(temperature, encoder_training),
            Share(),
            Curves(folder),
            *([GradientClip(grad_clip)] if grad_clip else []),
            *([Bf16()] if bf16 else []),
            *cbs,
        ],
        what=what,
        unit=" images",
    )


def fit_distiller(
    learn: Learner,
    *,
    epochs: int,
    lr: float = 1e-4,
    schedule: str = "cosine",
    state: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Train, going on from `state` where an interrupted fit of the same `settings` left it; see `training.fit`.

    Raises:
        ValueError: the loss is no number any more, with the batch and its images; or memory ran out.
    """
    if epochs < 1:
        raise ValueError(f"epochs: expected at least 1, got {epochs}")
    learn.create_opt()
    rates = np.full(len(learn.opt.param_lists), lr)
    cbs: list[Callback] = [Schedule([Phase(1.0, rates, 0)], schedule)]
    if state:
        cbs.append(KeepLast(state, {"epochs": epochs, "lr": lr, **(settings or {})}, lr))
    with naming_memory(learn, "images", "lower batch_size or image_size"):
        learn.fit(epochs, cbs=cbs)
