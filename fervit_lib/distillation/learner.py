"""The Learner that distils: targets from teacher and detector, and the temperature."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import Tensor, nn

from fervit_lib.distillation.cache import BoundedCache
from fervit_lib.distillation.data import CountEpochs
from fervit_lib.distillation.features import OnnxFeatures
from fervit_lib.distillation.losses import TERMS, DistillLoss, LossWeights, temperature_at
from fervit_lib.distillation.metrics import all_metrics
from fervit_lib.distillation.student import TappedStudent, frozen_groups, parameter_groups
from fervit_lib.models.segmentation import freeze
from fervit_lib.system.checkpoints import model_key
from fervit_lib.training import FitBar, OptimConfig, ParameterGroup, build_learner

MONITOR = "fg_iou"


class Targets:
    """Teacher outputs and detector features of images, cached by the images' content.

    With several ranks each computes and caches the targets of its own shards.

    Args:
        teacher: frozen here, in eval mode; never in an optimiser. None: no outputs.
        source: of the features; None: no features.
        cache: shared by all fits of one experiment; None: nothing is cached.
        bf16: compute the teacher in bf16.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        source: OnnxFeatures | None = None,
        *,
        cache: BoundedCache | None = None,
        bf16: bool = False,
    ) -> None:
        # Any: `build_distiller` has checked that they are there where they are used.
        self.teacher: Any = freeze(teacher) if teacher else None
        self.source: Any = source
        self.cache = BoundedCache(0) if cache is None else cache
        self.bf16 = bf16
        self._teacher_key = f"{model_key(teacher)} {bf16}" if teacher else ""

    @torch.no_grad()
    def logits(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """Logits of the teacher, which must be there: (B, 1, S, S) float32."""

        def compute(images: Tensor) -> Tensor:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
                return self.teacher(images).float()

        return self._cached(self._teacher_key, compute, images, keys)

    def features(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """Features of the detector, which must be there: (B, C, h, w) float32."""
        return self._cached(f"{self.source.key} {self.source.providers}", self.source, images, keys)

    def _cached(
        self, model: str, compute: Callable[[Tensor], Tensor], images: Tensor, keys: Sequence[str]
    ) -> Tensor:
        full_keys = [(model, key) for key in keys]
        cached = [self.cache.get(key) for key in full_keys]
        values = [entry[0] if entry else None for entry in cached]
        missing = [i for i, value in enumerate(values) if value is None]
        if missing:
            # The batch itself if all are missing: a copy would be another memory format.
            chosen = images if len(missing) == len(images) else images[missing]
            for i, value in zip(missing, compute(chosen), strict=True):
                values[i] = value
                self.cache.put(full_keys[i], (value,))
        return torch.stack(values)


class AddTargets(Callback):
    """Add teacher logits and detector features to the targets, if loss or metrics use them.

    Args:
        shuffle: give each image the features of another image, which keeps only their statistics.
    """

    order = -8  # on the images of the loader, before anything else

    def __init__(self, targets: Targets, weights: LossWeights, shuffle: bool) -> None:
        self.targets = targets
        self.weights = weights
        self.shuffle = shuffle

    def before_batch(self) -> None:
        masks, keys = self.yb
        logits = features = None
        has_teacher = self.targets.teacher is not None
        if has_teacher and (self.weights.outputs or not self.training):
            logits = self.targets.logits(self.x, keys)
        if self.weights.feature:
            features = self.targets.features(self.x, keys)
            if self.shuffle:
                features = features.roll(1, 0)
        self.learn.yb = (masks, logits, features)


class Anneal(Callback):
    """Lower the temperature, and unfreeze encoder stages, over the epochs."""

    order = 61  # after the Schedule, before modules are put into training mode

    def __init__(self, temperature: tuple[float, float, str], encoder_training: str) -> None:
        self.temperature = temperature
        self.encoder_training = encoder_training

    def before_epoch(self) -> None:
        start, end, schedule = self.temperature
        progress = self.epoch / max(1, self.n_epoch - 1)
        self.learn.loss_func.temperature = temperature_at(progress, start, end, schedule)
        frozen = frozen_groups(
            self.encoder_training,
            self.model.term.tap,
            len(self.opt.param_lists),
            self.epoch / self.n_epoch,
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
    optim: OptimConfig = OptimConfig(grad_clip=1.0),  # noqa: B008  (frozen)
    cbs: Sequence[Callback] = (),
    what: str = "distil",
) -> Learner:
    """`training.build_learner` for a student; `training.fit` trains it.

    Args:
        dls: see `people_dls`.
        weights: of the loss; a term of weight 0 is not computed.
        temperature: of the KL divergence at the first and last epoch, and the schedule between.
        encoder_training: see `student.frozen_groups`.
        what: description of the progress bar.

    Raises:
        ValueError: a setting out of range, or a weight without a teacher or detector for it.
    """
    if weights.outputs and targets.teacher is None:
        raise ValueError("kl_weight, mse_weight: expected 0 without a teacher; set `teacher`")
    if weights.feature and (targets.source is None or model.projector is None):
        raise ValueError("feature_weight: expected 0 without a detector; set `detector`")
    temperature_at(0.0, *temperature)  # raises for an unknown schedule before the fit
    terms = tuple(n for n in TERMS if n in ("bce", "dice") or getattr(weights, n))
    groups = [
        ParameterGroup(f"group {number}", parameters)
        for number, parameters in enumerate(parameter_groups(model))
    ]
    return build_learner(
        model.to(dls.device),
        dls,
        groups,
        DistillLoss(weights, temperature[0], model.term),
        optim,
        folder=folder,
        metrics=all_metrics(terms),
        cbs=[
            AddTargets(targets, weights, model.term.shuffle),
            CountEpochs(),
            Anneal(temperature, encoder_training),
            FitBar(what, " images"),
            *cbs,
        ],
    )
