"""Stand-ins where nothing may be downloaded: a teacher and a detector that this project trains on the spot."""

import json
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fastai.data.core import DataLoaders
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn

from fervit_lib.datasets import IGNORE
from fervit_lib.distillation.cache import content_key
from fervit_lib.distillation.data import CountEpochs
from fervit_lib.distillation.learner import Targets, build_distiller, fit_distiller
from fervit_lib.distillation.losses import LossWeights
from fervit_lib.distillation.student import TappedStudent
from fervit_lib.models.segmentation import build_segmenter, denormalise, save_teacher
from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import SaveBest
from fervit_lib.training.callbacks import StopOnNan
from fervit_lib.training.resume import ResumableLearner
from fervit_lib.training.share import Share

TOY_TENSOR = (
    "/neck/act/Relu_output_0"  # in the middle of its graph: 64 channels at an eighth of the side
)


class ToyDetector(nn.Module):
    """Images (B, 3, S, S) in [0, 1] → (B, 5, S/8, S/8): how much of a cell is person (logit), and the persons' box as
    left, top, right, bottom in [0, 1].
    """

    def __init__(self) -> None:
        super().__init__()

        def block(i: int, o: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(i, o, 3, stride, 1, bias=False)
            return nn.Sequential(OrderedDict(conv=convolution, bn=nn.BatchNorm2d(o), act=nn.ReLU()))

        self.body = nn.Sequential(
            block(3, 16, 2), block(16, 32, 2), block(32, 64, 2), block(64, 64, 1)
        )
        self.neck = block(64, 64, 1)
        self.head = nn.Conv2d(64, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.neck(self.body(images)))


def detection_loss(predicted: Tensor, masks: Tensor, *_: Any) -> Tensor:
    """Cross-entropy of the cells' cover, and the box's absolute error in cells with a person."""
    person = (masks == 1).float()[:, None]
    valid = F.avg_pool2d((masks != IGNORE).float()[:, None], 8)
    cover = F.avg_pool2d(person, 8)
    side = person.shape[-1]
    grid = torch.arange(side, device=masks.device) / side
    across, down = person[:, 0].amax(1) > 0, person[:, 0].amax(2) > 0
    first = [torch.where(there, grid, 1.0).amin(1) for there in (across, down)]
    last = [torch.where(there, grid, 0.0).amax(1) for there in (across, down)]
    box = torch.stack([*first, *last], 1)[:, :, None, None]
    cells = F.binary_cross_entropy_with_logits(predicted[:, :1].float(), cover, reduction="none")
    found = ((predicted[:, 1:].float() - box).abs() * cover).sum() / cover.sum().clamp(min=1) / 4
    return (cells * valid).sum() / valid.sum().clamp(min=1) + found


def _named(folder: Path, stem: str, suffix: str, settings: dict[str, Any]) -> Path:
    """A file whose name changes with what it was made from: one that is there is the one that is meant."""
    key = content_key(json.dumps(settings, sort_keys=True, default=str).encode())
    return folder / f"{stem}-{key[:10]}{suffix}"


def make_toy_detector(
    dls: DataLoaders, folder: Path, *, epochs: int, seed: int, settings: dict[str, Any]
) -> Path:
    """Train a `ToyDetector` on the training people and write it to `folder` as ONNX, unless it is there already.

    Its graph's only output comes after `TOY_TENSOR`, as in a published detector.

    Args:
        settings: what the images are made from.
    """
    path = _named(folder, "toy_detector", ".onnx", settings | {"epochs": epochs, "seed": seed})
    if path.is_file():
        return path
    seed_everything(seed)
    detector = ToyDetector().to(dls.device)
    model = nn.Sequential(_Denormalise(), detector)
    adamw = partial(OptimWrapper, opt=torch.optim.AdamW)
    cbs = [StopOnNan(), CountEpochs(), Share()]
    shown = {"what": "toy detector", "unit": " images"}
    learn = ResumableLearner(
        dls, model, loss_func=detection_loss, opt_func=adamw, train_bn=False, cbs=cbs, **shown
    )
    learn.fit(epochs, 2e-3)
    return _export(detector, path, dls.train.size)


@distributed.rank_zero_only
def _export(detector: ToyDetector, path: Path, size: int) -> Path:
    with atomic_write(path) as temporary:
        torch.onnx.export(
            detector.eval().cpu(), (torch.zeros(2, 3, size, size),), str(temporary), input_names=["images"],
            output_names=["cells"], dynamic_axes={"images": {0: "batch"}, "cells": {0: "batch"}}, opset_version=17,
            dynamo=False,
        )  # fmt: skip
    return path


class _Denormalise(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return denormalise(images)


def make_toy_teacher(
    dls: DataLoaders,
    folder: Path,
    *,
    encoder: str,
    epochs: int,
    lr: float,
    precision: str = "auto",
    seed: int,
    settings: dict[str, Any],
) -> Path:
    """Train a teacher on the masks alone and write it to `folder` in the form of the published one, unless it is there.

    The best epoch by foreground IoU on the validation split is kept.
    """
    told = {
        "encoder": encoder,
        "epochs": epochs,
        "lr": lr,
        "precision": precision,
        "seed": seed,
    } | settings
    path = _named(folder, "toy_teacher", ".pth", told)
    state = path.with_suffix(".state")
    if path.is_file():
        state.unlink(missing_ok=True)
        return path
    seed_everything(seed)
    teacher = build_segmenter(encoder)
    masks_only = LossWeights(kl=0, mse=0, feature=0)

    @distributed.rank_zero_only
    def save() -> None:
        with atomic_write(path.with_suffix(".best")) as temporary:
            save_teacher(temporary, teacher)

    @distributed.rank_zero_only
    def keep_best() -> None:
        path.with_suffix(".best").rename(path)
        state.unlink()

    best = SaveBest(save, "fg_iou")
    place, tapped = folder / "toy_teacher", TappedStudent(teacher)
    shown: dict[str, Any] = {
        "folder": place,
        "precision": precision,
        "cbs": [best],
        "what": "toy teacher",
    }
    learn = build_distiller(tapped, dls, Targets(None), masks_only, **shown)
    fit_distiller(learn, epochs=epochs, lr=lr, schedule="one_cycle", state=state, settings=told)
    keep_best()
    return path
