"""Distillation of expressions: a CNN teaches a ViT (DeiT, Touvron et al. 2021, section 3)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import Tensor, nn

from fervit_lib.inputs import inputs_for
from fervit_lib.latents import LatentStore
from fervit_lib.models import ImageModel, load_model
from fervit_lib.models.segmentation import freeze
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.names import check_choice
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import resolve, seed_everything, use_bf16
from fervit_lib.training import (
    STRATEGIES,
    AugmentImages,
    OptimConfig,
    SaveBest,
    build_learner,
    face_dls,
    fit,
)

KINDS = ("none", "soft", "hard", "token")


class TokenViT(ImageModel):
    """A ViT with DeiT's distillation token beside CLS, each with its own head.

    In training mode it returns the logits of CLS and of the token, (B, num_classes) each; in eval
    mode their mean.

    Args:
        model_name: a distilled ViT of timm, e.g. `deit_tiny_distilled_patch16_224`.
        options: of `ImageModel`.
    """

    def __init__(self, num_classes: int = 7, *, model_name: str, **options: Any) -> None:
        if "distilled" not in model_name:
            raise ValueError(
                f"model_name: expected a distilled ViT, which has the token, got {model_name!r}"
            )
        super().__init__(num_classes, model_name=model_name, **options)
        self.head = nn.ModuleList([self.head, nn.Linear(self.body.num_features, num_classes)])

    def forward_head(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        # Tokens 0 and 1 of (B, N, D) are CLS and the distillation token.
        cls, token = (head(self.head_drop(features[:, i])) for i, head in enumerate(self.head))
        return (cls, token) if self.training else (cls + token) / 2


class ExpressionLoss(nn.Module):
    """(1 - alpha) · cross-entropy of the labels + alpha · loss of the teacher's outputs.

    Args:
        kind: loss of the teacher's outputs. `none`: no such term. `soft`: T² · KL divergence at
            temperature T (Hinton et al. 2015). `hard`: cross-entropy of the teacher's class.
            `token`: the same for the logits of the distillation token.
        alpha: in [0, 1].
        temperature: above 0.
    """

    def __init__(self, kind: str, alpha: float = 0.5, temperature: float = 3.0) -> None:
        super().__init__()
        check_choice("kind", kind, KINDS)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha: expected a number in [0, 1], got {alpha}")
        if not temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")
        self.kind = kind
        self.alpha = 0.0 if kind == "none" else alpha
        self.temperature = temperature

    def forward(
        self,
        logits: Tensor | tuple[Tensor, Tensor],
        labels: Tensor,
        teacher_logits: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            logits: (B, C), or a pair of them as `TokenViT` returns in training.
            labels: (B,).
            teacher_logits: (B, C). None: labels only, as in validation.
        """
        cls, token = logits if isinstance(logits, tuple) else (logits, logits)
        label_loss = F.cross_entropy(cls.float(), labels)
        if teacher_logits is None or not self.alpha:
            return label_loss
        if self.kind == "soft":
            teacher_loss = self.temperature**2 * F.kl_div(
                (cls.float() / self.temperature).log_softmax(-1),
                (teacher_logits.float() / self.temperature).log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            )
        else:
            student = token if self.kind == "token" else cls
            teacher_loss = F.cross_entropy(student.float(), teacher_logits.argmax(-1))
        return (1 - self.alpha) * label_loss + self.alpha * teacher_loss


class AddTeacherLogits(Callback):
    """Add the teacher's logits of the augmented training images to the targets of each batch."""

    order = -4  # after AugmentImages, before mixed precision

    def __init__(self, teacher: nn.Module, bf16: bool) -> None:
        self.teacher = teacher
        self.bf16 = bf16

    def before_batch(self) -> None:
        if self.training:
            self.learn.yb = (self.y, teacher_logits(self.teacher, self.x, self.bf16))


@torch.no_grad()
def teacher_logits(teacher: nn.Module, images: Tensor, bf16: bool) -> Tensor:
    """Images (B, 3, H, W) as `ImageModel` takes them → logits (B, C) float32."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        return teacher(images).float()


def mirrored_teacher_logits(teacher: nn.Module, images: Tensor, bf16: bool) -> Tensor:
    """The teacher's mean logits of each image and its mirror image, (N, 3, H, W) → (N, C)."""
    logits = []
    for part in progress(images.split(256), desc="teacher", unit=" batches"):
        mirrored = teacher_logits(teacher, part.flip(-1), bf16)
        logits.append((teacher_logits(teacher, part, bf16) + mirrored) / 2)
    return torch.cat(logits)


def build_expression_learner(
    student: nn.Module,
    teacher: nn.Module,
    dls: DataLoaders,
    loss: ExpressionLoss,
    *,
    folder: Path,
    ask_once: bool = False,
    precision: str = "auto",
    cbs: list[Callback],
    **options: Any,
) -> Learner:
    """`training.build_learner` for a student whose parameters all train, with a frozen teacher.

    Args:
        teacher: any model of the same images and classes.
        dls: as `expression_dls` returns it.
        ask_once: compute the teacher's logits of each face and its mirror image once, and use their
            mean in all epochs. False: compute them for each augmented image, which takes one pass
            per step and tells the student more.
        precision: of student and teacher.
        options: of `training.OptimConfig`.

    Raises:
        ValueError: kind `token` without a `TokenViT` or the reverse, or a teacher of other classes.
    """
    if (loss.kind == "token") != isinstance(student, TokenViT):
        raise ValueError(
            f"student: expected a TokenViT for kind token and only there, got kind {loss.kind!r}"
        )
    student = student.to(dls.device)
    teacher = freeze(teacher).to(dls.device)
    bf16 = use_bf16(precision, dls.device)
    images = dls.train.views[0]
    num_classes = teacher_logits(teacher, images[:2], bf16).shape[-1]
    if num_classes != len(dls.classes):
        raise ValueError(
            f"teacher: expected the {len(dls.classes)} classes of the faces, got {num_classes}"
        )
    dls.train.extra = None
    if loss.alpha and ask_once:
        dls.train.extra = mirrored_teacher_logits(teacher, images, bf16)
    elif loss.alpha:
        cbs = [AddTeacherLogits(teacher, bf16), *cbs]
    optim = OptimConfig(precision=precision, **options)
    return build_learner(student, dls, STRATEGIES["full"], loss, optim, folder=folder, cbs=cbs)


def expression_dls(
    folder: Path, image_size: int, batch_size: int, device: torch.device
) -> DataLoaders:
    """`training.face_dls` of a store's faces as images.

    The test split is added as `dls.test_inputs` and `dls.test_labels`.
    """
    test = LatentStore.open(folder, "test")
    # Any model of images: only its image size is used.
    model = ImageModel(
        len(test.classes), model_name="resnet10t", pretrained="none", image_size=image_size
    )
    dls = face_dls(model, folder, batch_size=batch_size, device=device)
    dls.test_inputs = inputs_for(model, test)
    dls.test_labels = test.labels.numpy()
    dls.num_train = len(dls.train.targets)
    dls.num_val = len(dls.valid.targets)
    dls.num_test = len(dls.test_labels)
    return dls


@torch.inference_mode()
def correct_predictions(model: nn.Module, dls: DataLoaders) -> np.ndarray:
    """Which test faces are classified correctly, (2, N) bool.

    Row 0 is for the face alone, row 1 for the mean probabilities of the face and its mirror image.
    """
    model = model.eval().to(dls.device)
    predictions = []
    for part in dls.test_inputs.split(256):
        images = part.to(dls.device)
        plain = model(images).softmax(-1)
        mirrored = model(images.flip(-1)).softmax(-1)
        predictions.append(torch.stack([plain.argmax(-1), (plain + mirrored).argmax(-1)]).cpu())
    return torch.cat(predictions, dim=1).numpy() == dls.test_labels


def load_or_train_teacher(
    teacher: str,
    dls: DataLoaders,
    folder: Path,
    *,
    model_name: str,
    image_size: int,
    epochs: int,
    precision: str = "auto",
) -> nn.Module:
    """Load the checkpoint of a run of 02_train with approach image, or train a CNN.

    Args:
        teacher: the checkpoint. `toy`: train on the same faces and keep the best epoch by macro-F1.
        folder: of the training; `model_name` (of timm) and the other arguments are for it, too.

    Raises:
        ValueError: the checkpoint is of a model over codes.
    """
    if teacher != "toy":
        model, _ = load_model(resolve(teacher))
        if model.reads != "pixels":
            raise ValueError(f"teacher: expected a model of images (approach image), got {teacher}")
        return model
    seed_everything(0)
    own: dict[str, Any] = {"model_name": model_name, "image_size": image_size}
    model = ImageModel(len(dls.classes), pretrained="none", **own).to(dls.device)
    optim = OptimConfig(precision=precision)
    cbs = [AugmentImages()]
    learn = build_learner(model, dls, STRATEGIES["full"], optim=optim, folder=folder, cbs=cbs)
    _fit_best(learn, folder, epochs, 1e-3, {**own, "precision": precision})
    return model


def fit_expression(
    kind: str,
    seed: int,
    dls: DataLoaders,
    teacher: nn.Module,
    folder: Path,
    *,
    student: Mapping[str, Any],
    epochs: int,
    lr: float,
    augment: float = 1.0,
    loss: Mapping[str, float],
    **options: Any,
) -> nn.Module:
    """Train a ViT with one kind of distillation and return its best epoch by macro-F1.

    For `none`, `soft` and `hard` the student is the same ViT without the token.

    Args:
        kind: one of `KINDS`.
        student: `model_name` of a distilled ViT of timm, and other keywords of `ImageModel`.
        augment: see `AugmentImages`.
        loss: keywords of `ExpressionLoss`.
        options: of `build_expression_learner`.
    """
    seed_everything(seed)
    own = {"pretrained": "none", **student}
    if kind == "token":
        model: nn.Module = TokenViT(len(dls.classes), **own)
    else:
        own["model_name"] = own["model_name"].replace("_distilled", "")
        model = ImageModel(len(dls.classes), **own)
    cbs = [AugmentImages(augment)]
    learn = build_expression_learner(
        model, teacher, dls, ExpressionLoss(kind, **loss), folder=folder, cbs=cbs, **options
    )
    settings = {
        "seed": seed,
        "kind": kind,
        "student": student,
        "loss": loss,
        "augment": augment,
        **options,
    }
    _fit_best(learn, folder, epochs, lr, settings)
    return model.eval()


def _fit_best(
    learn: Learner, folder: Path, epochs: int, lr: float, settings: Mapping[str, Any]
) -> None:
    """Train, or continue an interrupted training, and load the weights of the best epoch."""
    best = folder / "checkpoints" / "best.safetensors"

    def save() -> None:
        save_checkpoint(best, learn.model.state_dict(), {"kind": "expression"})

    learn.add_cb(SaveBest(save))
    fit(
        learn,
        STRATEGIES["full"],
        epochs=epochs,
        lr=lr,
        state=best.with_name("last.safetensors"),
        settings={**settings, "faces": len(learn.dls.train.targets)},
    )
    learn.model.load_state_dict(load_checkpoint(best)[0])


def accuracy_table(correct: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Accuracy by kind of distillation, with a 95 % bootstrap interval over the faces.

    Args:
        correct: {kind: (seeds, 2, N)}, rows of `correct_predictions`.

    Returns:
        One row per kind: arm, seeds, accuracy, low, high, and mirrored: the accuracy of the face
        together with its mirror image.
    """
    rows = []
    rng = np.random.default_rng(0)
    for kind, seeds in correct.items():
        plain, mirrored = np.asarray(seeds).swapaxes(0, 1)  # (seeds, N) each
        samples = rng.choice(plain.mean(0), (2000, plain.shape[1])).mean(1)
        low, high = np.quantile(samples, (0.025, 0.975))
        rows.append((kind, len(plain), plain.mean(), low, high, mirrored.mean()))
    return pd.DataFrame(rows, columns=["arm", "seeds", "accuracy", "low", "high", "mirrored"])
