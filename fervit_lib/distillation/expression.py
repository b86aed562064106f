"""Expressions: a CNN teaches a ViT what few faces alone do not (DeiT, Touvron et al. 2021, section 3)."""

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
from fervit_lib.system import distributed
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import resolve, seed_everything, use_bf16
from fervit_lib.training import (
    STRATEGIES,
    AugmentImages,
    SaveBest,
    build_learner,
    face_dls,
    fit,
)

KINDS = ("none", "soft", "hard", "token")


class TokenViT(ImageModel):
    """A ViT with DeiT's distillation token beside CLS, each with a head of its own.

    In training: (logits of CLS, logits of the token), (B, num_classes) each; else the mean of both.

    Args:
        model_name: a distilled ViT of timm: `deit_tiny_distilled_patch16_224`, …
        options: as of `ImageModel`.
    """

    def __init__(
        self,
        num_classes: int = 7,
        *,
        model_name: str = "deit_tiny_distilled_patch16_224",
        **options,
    ) -> None:
        if "distilled" not in model_name:
            raise ValueError(
                f"model_name: expected a distilled ViT, which has the token, got {model_name!r}"
            )
        super().__init__(num_classes, model_name=model_name, **options)
        self.head = nn.ModuleList([self.head, nn.Linear(self.body.num_features, num_classes)])

    def forward_head(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        ours, token = (head(self.head_drop(features[:, i])) for i, head in enumerate(self.head))
        return (ours, token) if self.training else (ours + token) / 2


class ExpressionLoss(nn.Module):
    """(1 - alpha) · cross-entropy of the labels + alpha · what the teacher says.

    Args:
        kind: `none`: labels only; `soft`: T² · KL to the teacher at temperature T (Hinton et al. 2015); `hard`:
            cross-entropy of the teacher's class; `token`: the same, of the distillation token.
        alpha: in [0, 1].
    """

    def __init__(self, kind: str, alpha: float = 0.5, temperature: float = 3.0) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha: expected a share in [0, 1], got {alpha}")
        if not temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")
        self.kind, self.alpha, self.temperature = (
            kind,
            0.0 if kind == "none" else alpha,
            temperature,
        )

    def forward(
        self, logits: Tensor | tuple[Tensor, Tensor], labels: Tensor, taught: Tensor | None = None
    ) -> Tensor:
        """`taught`: the teacher's logits (B, C); None where they are not asked for, as in validation."""
        ours, token = logits if isinstance(logits, tuple) else (logits, logits)
        loss = F.cross_entropy(ours.float(), labels)
        if taught is None or not self.alpha:
            return loss
        if self.kind == "soft":
            student, teacher = ours.float() / self.temperature, taught.float() / self.temperature
            said = self.temperature**2 * F.kl_div(
                student.log_softmax(-1),
                teacher.log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            )
        else:
            said = F.cross_entropy(
                (token if self.kind == "token" else ours).float(), taught.argmax(-1)
            )
        return (1 - self.alpha) * loss + self.alpha * said


class AskTeacher(Callback):
    """Put a frozen teacher's logits of the very same training images, as they were changed, beside the labels."""

    order = -4  # after AugmentImages, before anything is cast

    def __init__(self, teacher: nn.Module, bf16: bool) -> None:
        self.teacher, self.bf16 = freeze(teacher), bf16

    def before_batch(self) -> None:
        if self.training:
            self.learn.yb = (self.y, teacher_logits(self.teacher, self.x, self.bf16))


@torch.no_grad()
def teacher_logits(teacher: nn.Module, images: Tensor, bf16: bool) -> Tensor:
    """(B, 3, H, W) as `ImageModel` takes them → (B, C) float32."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        return distributed.in_shares(teacher, images).float()


def ask_of_all(teacher: nn.Module, images: Tensor, bf16: bool) -> Tensor:
    """The teacher's mean logits of each image and its mirror image: (N, 3, H, W) → (N, C)."""
    said = []
    for part in progress(images.split(256), desc="ask the teacher", unit=" batches"):
        said.append(
            (teacher_logits(teacher, part, bf16) + teacher_logits(teacher, part.flip(-1), bf16)) / 2
        )
    return torch.cat(said)


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
    """`training.build_learner` of the whole student with the teacher beside it; `training.fit` trains it.

    Args:
        teacher: any model over the same images; frozen here.
        dls: as `training.face_dls` of the student.
        ask_once: the teacher says what it sees in each face, and in its mirror image, once and for all. That costs two
            passes in all; else one for every image as it was changed, which says more of the teacher.
        precision: of the teacher, too.
        options: as of `training.build_learner`.

    Raises:
        ValueError: a `token` without a `TokenViT`, or a teacher of other classes.
    """
    if (loss.kind == "token") != isinstance(student, TokenViT):
        raise ValueError(
            f"student: expected a TokenViT for kind token and only there, got kind {loss.kind!r}"
        )
    student, teacher = student.to(dls.device), freeze(teacher).to(dls.device)
    bf16 = use_bf16(precision, dls.device)
    found = teacher_logits(teacher, dls.train.views[0][:2], bf16).shape[-1]
    if found != len(dls.classes):
        raise ValueError(
            f"teacher: expected {len(dls.classes)} classes as the faces have, got {found}"
        )
    dls.train.beside = (
        ask_of_all(teacher, dls.train.views[0], bf16) if ask_once and loss.alpha else None
    )
    ask = [AskTeacher(teacher, bf16)] if loss.alpha and not ask_once else []
    fitting: dict[str, Any] = {
        "folder": folder,
        "precision": precision,
        "cbs": [*ask, *cbs],
        **options,
    }
    learn = build_learner(student, dls, STRATEGIES["full"], **fitting)
    learn.loss_func = loss
    return learn


def expression_dls(
    folder: Path, image_size: int, batch_size: int, device: torch.device
) -> DataLoaders:
    """`training.face_dls` of a store's faces, as pixels; and the test split as `dls.test_inputs`, `test_labels`."""
    test = LatentStore.open(folder, "test")
    reader = ImageModel(
        len(test.classes), model_name="resnet10t", pretrained="none", image_size=image_size
    )
    dls = face_dls(reader, folder, batch_size=batch_size, device=device)
    dls.test_inputs, dls.test_labels = inputs_for(reader, test), test.labels.numpy()
    dls.num_train, dls.num_val, dls.num_test = (
        len(dls.train.targets),
        len(dls.valid.targets),
        len(dls.test_labels),
    )
    return dls


def correct_predictions(model: nn.Module, dls: DataLoaders) -> np.ndarray:
    """(2, N) bool: which faces of the test split `model` reads rightly, alone and together with the mirror image."""
    model = model.eval().to(dls.device)
    found = []
    with torch.inference_mode():
        for part in dls.test_inputs.split(256):
            plain, mirrored = (
                model(images.to(dls.device)).softmax(-1) for images in (part, part.flip(-1))
            )
            found.append(torch.stack([plain.argmax(-1), (plain + mirrored).argmax(-1)]).cpu())
    return torch.cat(found, dim=1).numpy() == dls.test_labels


def load_or_teach(teacher: str, dls: DataLoaders, folder: Path, **options: Any) -> nn.Module:
    """`toy`: as `teach_expressions` with `options`; else the checkpoint of a run of 02_train, approach image.

    Raises:
        ValueError: the checkpoint is of a model over codes.
    """
    if teacher == "toy":
        return teach_expressions(dls, folder, **options)
    model, _ = load_model(resolve(teacher))
    if model.reads != "pixels":
        raise ValueError(
            f"teacher: expected a model over pixels (approach image), {teacher} reads codes"
        )
    return model


def teach_expressions(
    dls: DataLoaders,
    folder: Path,
    *,
    model_name: str,
    image_size: int,
    epochs: int,
    precision: str = "auto",
    seed: int = 0,
) -> nn.Module:
    """A CNN trained on the same faces, its best epoch by macro-F1: what teaches where no trained one is given."""
    seed_everything(seed)
    model = ImageModel(
        len(dls.classes), model_name=model_name, pretrained="none", image_size=image_size
    )
    fitting: dict[str, Any] = {"folder": folder, "precision": precision, "cbs": [AugmentImages()]}
    learn = build_learner(model.to(dls.device), dls, STRATEGIES["full"], **fitting)
    told = {
        "seed": seed,
        "model_name": model_name,
        "image_size": image_size,
        "precision": precision,
    }
    _fit_best(learn, folder, epochs, 1e-3, told)
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
    """A ViT taught as `kind` says, its best epoch by macro-F1.

    For `none`, `soft` and `hard` the student is the same ViT without the token.

    Args:
        student: `model_name` of a distilled ViT of timm, and other keywords of `ImageModel`.
        augment: see `AugmentImages`.
        loss: keywords of `ExpressionLoss`.
        options: as of `build_expression_learner`.
    """
    seed_everything(seed)
    own = {"pretrained": "none", **student}
    if kind == "token":
        model: nn.Module = TokenViT(len(dls.classes), **own)
    else:
        model = ImageModel(
            len(dls.classes), **own | {"model_name": own["model_name"].replace("_distilled", "")}
        )
    build = {"folder": folder, "cbs": [AugmentImages(augment)], **options}
    learn = build_expression_learner(model, teacher, dls, ExpressionLoss(kind, **loss), **build)
    told = {
        "kind": kind,
        "student": dict(student),
        "loss": dict(loss),
        "augment": augment,
        **options,
    }
    _fit_best(learn, folder, epochs, lr, {"seed": seed, **told})
    return model.eval()


def _fit_best(
    learn: Learner, folder: Path, epochs: int, lr: float, settings: Mapping[str, Any]
) -> None:
    """Fit, resumably, and leave the weights of the best epoch in the model."""
    checkpoint = folder / "checkpoints" / "best.safetensors"
    learn.add_cb(
        SaveBest(
            lambda: save_checkpoint(checkpoint, learn.model.state_dict(), {"kind": "expression"})
        )
    )
    fit(
        learn, STRATEGIES["full"], epochs=epochs, lr=lr, state=folder / "checkpoints" / "last.safetensors",
        settings={**settings, "faces": len(learn.dls.train.targets)},
    )  # fmt: skip
    learn.model.load_state_dict(load_checkpoint(checkpoint)[0])


def accuracy_table(correct: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """{kind: (seeds, 2, N) as `correct_predictions` gives it} → a row a kind, with a 95% interval over the faces.

    `accuracy`, `low` and `high` are of the face alone, `mirrored` of the face together with its mirror image.
    """
    rows, rng = [], np.random.default_rng(0)
    for kind, both in correct.items():
        values = np.asarray(both)[:, 0]
        drawn = rng.choice(values.mean(0), (2000, values.shape[1])).mean(1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        row = {
            "arm": kind,
            "seeds": len(values),
            "accuracy": values.mean(),
            "low": low,
            "high": high,
        }
        rows.append(row | {"mirrored": np.asarray(both)[:, 1].mean()})
    return pd.DataFrame(rows)
