"""A small teacher and a small detector, trained on the spot where nothing may be downloaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fastai.data.core import DataLoaders
from fastai.layers import Lambda
from timm.layers import ConvNormAct
from torch import Tensor, nn

from fervit_lib.datasets import IGNORE
from fervit_lib.distillation.data import CountEpochs
from fervit_lib.distillation.learner import Targets, build_distiller
from fervit_lib.distillation.losses import LossWeights
from fervit_lib.distillation.student import TappedStudent
from fervit_lib.models import write_onnx
from fervit_lib.models.segmentation import build_segmenter, denormalise, save_teacher
from fervit_lib.system import distributed
from fervit_lib.system.atomic import read_json, write_json
from fervit_lib.system.checkpoints import content_key
from fervit_lib.system.identity import digest
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import STRATEGIES, FitBar, OptimConfig, build_learner, fit, single_group

# In the middle of the toy detector's graph: 64 channels, an eighth of the image's side.
TOY_TENSOR = "/3/bn/act/Relu_output_0"

# After 2,900 images a small U-Net has a foreground IoU of 64%; at a tenth of this rate 59%.
_TEACHER_LR = 2e-2


def detection_loss(logits: Tensor, masks: Tensor, *_: Any) -> Tensor:
    """Cross-entropy of each cell's share of person.

    Args:
        logits: (B, 1, S/8, S/8), of the toy detector.
        masks: (B, S, S) of 0, 1, 255.
    """
    share = F.avg_pool2d((masks == 1).float()[:, None], 8)
    valid = F.avg_pool2d((masks != IGNORE).float()[:, None], 8)
    return F.binary_cross_entropy_with_logits(logits.float(), share, valid)


def _train_once(path: Path, settings: dict, train: Callable[[Path], None]) -> Path:
    """`path` with a hash of the settings in its name; `train` writes it, unless it is there.

    A file that is not as it was written is trained again.
    """
    path = path.with_stem(f"{path.stem}-{digest(settings)[:10]}")
    record = path.with_suffix(".json")
    complete = path.is_file() and record.is_file()
    if not complete or read_json(record)["content"] != content_key(path.read_bytes()):
        seed_everything(settings["seed"])
        train(path)
        write_json(record, {"content": content_key(path.read_bytes())})
    return path


def train_toy_detector(
    dls: DataLoaders, folder: Path, *, epochs: int, seed: int, settings: dict
) -> Path:
    """Train the toy detector and write it to `folder` as ONNX, unless the file exists.

    Its only output comes after `TOY_TENSOR`, as in a published detector.

    Args:
        dls: see `people_dls`.
        settings: what the images are made from, JSON.

    Returns:
        The ONNX file.
    """

    def train(path: Path) -> None:
        # Images (B, 3, S, S) in [0, 1] → (B, 1, S/8, S/8): logits of the share that is person.
        detector = nn.Sequential(
            ConvNormAct(3, 16, 3, stride=2),
            ConvNormAct(16, 32, 3, stride=2),
            ConvNormAct(32, 64, 3, stride=2),
            ConvNormAct(64, 64, 3),
            nn.Conv2d(64, 1, 1),
        ).to(dls.device)
        model = nn.Sequential(Lambda(denormalise), detector)
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

    own = {**settings, "epochs": epochs, "seed": seed}
    return _train_once(folder / "toy_detector.onnx", own, train)


def train_toy_teacher(
    dls: DataLoaders,
    folder: Path,
    unet: dict[str, str],
    *,
    epochs: int,
    precision: str = "auto",
    seed: int,
    settings: dict,
) -> Path:
    """Train a U-Net on the masks alone and write it as the published teacher is, unless it exists.

    Args:
        dls: see `people_dls`.
        unet: encoder and decoder, see `build_segmenter`.
        settings: what the images are made from, JSON.

    Returns:
        The file of weights.
    """

    def train(path: Path) -> None:
        teacher = build_segmenter(**unet)
        learn = build_distiller(
            TappedStudent(teacher),
            dls,
            Targets(None),
            LossWeights(kl=0, mse=0, feature=0),
            folder=folder / "toy_teacher",
            optim=OptimConfig(grad_clip=1.0, precision=precision),
            what="toy teacher",
        )
        fit(learn, STRATEGIES["full"], epochs=epochs, lr=_TEACHER_LR)
        distributed.rank_zero_only(save_teacher)(path, teacher)

    own = {"images": settings, **unet, "epochs": epochs, "precision": precision, "seed": seed}
    return _train_once(folder / "toy_teacher.pth", own, train)
