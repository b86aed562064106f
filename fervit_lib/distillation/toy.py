"""A small teacher and a small detector, trained on the spot where nothing may be downloaded."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fastai.data.core import DataLoaders
from torch import Tensor, nn

from fervit_lib.datasets import IGNORE
from fervit_lib.distillation.cache import content_key
from fervit_lib.distillation.data import CountEpochs
from fervit_lib.distillation.learner import MONITOR, Targets, build_distiller
from fervit_lib.distillation.losses import LossWeights
from fervit_lib.distillation.student import TappedStudent
from fervit_lib.models import write_onnx
from fervit_lib.models.segmentation import build_segmenter, denormalise, save_teacher
from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write, read_json, write_json
from fervit_lib.system.identity import digest
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import (
    STRATEGIES,
    FitBar,
    OptimConfig,
    SaveBest,
    build_learner,
    fit,
    single_group,
)

# In the middle of the toy detector's graph: 64 channels, an eighth of the image's side.
TOY_TENSOR = "/neck/neck.2/Relu_output_0"

# After 3,000 images a small U-Net has a foreground IoU of 60%; at a tenth of this rate 55%.
_TEACHER_LR = 2e-2


def build_toy_detector() -> nn.Sequential:
    """A person detector without anchors, of six convolutions.

    Images (B, 3, S, S) in [0, 1] → (B, 5, S/8, S/8): the share of a cell that is person (a logit),
    and left, top, right, bottom of the box around all persons in [0, 1].
    """

    def block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())

    body = nn.Sequential(block(3, 16, 2), block(16, 32, 2), block(32, 64, 2), block(64, 64, 1))
    neck = block(64, 64, 1)
    return nn.Sequential(OrderedDict(body=body, neck=neck, head=nn.Conv2d(64, 5, 1)))


def detection_loss(predicted: Tensor, masks: Tensor, *_: Any) -> Tensor:
    """Cross-entropy of each cell's share of person, and L1 of the box in cells with a person.

    Args:
        predicted: (B, 5, S/8, S/8), see `build_toy_detector`.
        masks: (B, S, S) of 0, 1, 255.
    """
    # Imported here because torchvision.ops is slow to import.
    from torchvision.ops import masks_to_boxes

    person = (masks == 1).float()
    cell_share = F.avg_pool2d(person[:, None], 8)
    cell_valid = F.avg_pool2d((masks != IGNORE).float()[:, None], 8)
    box = masks_to_boxes(person)[:, :, None, None] / person.shape[-1]  # (B, 4, 1, 1)
    logits = predicted[:, :1].float()
    share_loss = F.binary_cross_entropy_with_logits(logits, cell_share, reduction="none")
    share_loss = (share_loss * cell_valid).sum() / cell_valid.sum().clamp(min=1)
    box_error = (predicted[:, 1:].float() - box).abs() * cell_share
    return share_loss + box_error.sum() / cell_share.sum().clamp(min=1) / 4


def _path_for(folder: Path, name: str, suffix: str, settings: dict[str, Any]) -> Path:
    """A file whose name contains a hash of the settings it is trained with."""
    return folder / f"{name}-{digest(settings)[:10]}{suffix}"


def _is_complete(path: Path) -> bool:
    """Whether the file is as it was written; else it is trained again."""
    record = path.with_suffix(".json")
    if path.is_file() and record.is_file():
        return read_json(record)["content"] == content_key(path.read_bytes())
    return False


@distributed.rank_zero_only
def _complete(path: Path) -> None:
    write_json(path.with_suffix(".json"), {"content": content_key(path.read_bytes())})


def train_toy_detector(
    dls: DataLoaders, folder: Path, *, epochs: int, seed: int, settings: dict[str, Any]
) -> Path:
    """Train the toy detector and write it to `folder` as ONNX, unless the file exists.

    Its only output comes after `TOY_TENSOR`, as in a published detector.

    Args:
        dls: see `people_dls`.
        settings: what the images are made from, JSON.

    Returns:
        The ONNX file.
    """
    path = _path_for(folder, "toy_detector", ".onnx", {**settings, "epochs": epochs, "seed": seed})
    if _is_complete(path):
        return path
    seed_everything(seed)
    detector = build_toy_detector().to(dls.device)
    model = nn.Sequential(_Denormalise(), detector)
    learn = build_learner(
        model,
        dls,
        single_group(model),
        detection_loss,
        OptimConfig(precision="float32"),
        folder=folder / "toy_detector",
        metrics=[],
        cbs=[CountEpochs(), FitBar("toy detector", " images")],
    )
    learn.fit(epochs, 2e-3)
    size = dls.train.size
    write_onnx(detector, torch.zeros(2, 3, size, size), "images", path)
    _complete(path)
    return path


class _Denormalise(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return denormalise(images)


def train_toy_teacher(
    dls: DataLoaders,
    folder: Path,
    unet: dict[str, str],
    *,
    epochs: int,
    precision: str = "auto",
    seed: int,
    settings: dict[str, Any],
) -> Path:
    """Train a U-Net on the masks alone and write it as the published teacher is, unless it exists.

    The best epoch by foreground IoU on the validation split is kept.

    Args:
        dls: see `people_dls`.
        unet: encoder and decoder, see `build_segmenter`.
        settings: what the images are made from, JSON.

    Returns:
        The file of weights.
    """
    own = {"images": settings, **unet, "epochs": epochs, "precision": precision, "seed": seed}
    path = _path_for(folder, "toy_teacher", ".pth", own)
    if _is_complete(path):
        return path
    seed_everything(seed)
    teacher = build_segmenter(**unet)

    @distributed.rank_zero_only
    def save() -> None:
        with atomic_write(path) as temporary:
            save_teacher(temporary, teacher)

    learn = build_distiller(
        TappedStudent(teacher),
        dls,
        Targets(None),
        LossWeights(kl=0, mse=0, feature=0),
        folder=folder / "toy_teacher",
        optim=OptimConfig(grad_clip=1.0, precision=precision),
        cbs=[SaveBest(save, MONITOR)],
        what="toy teacher",
    )
    fit(learn, STRATEGIES["full"], epochs=epochs, lr=_TEACHER_LR)
    _complete(path)
    return path
