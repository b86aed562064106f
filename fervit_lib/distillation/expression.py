"""Expressions: a CNN teaches a ViT, which with few faces it cannot learn alone (DeiT, Touvron et al. 2021, section 3)."""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import Tensor, nn

from fervit_lib.models import ImageModel
from fervit_lib.models.segmentation import freeze
from fervit_lib.training import STRATEGIES, build_learner

KINDS = ("none", "soft", "hard", "token")


class TokenViT(ImageModel):
    """A ViT with DeiT's distillation token beside CLS, each with a head of its own.

    In training: (logits of CLS, logits of the token), (B, num_classes) each; else the mean of both.

    Args:
        model_name: a distilled ViT of timm: `deit_tiny_distilled_patch16_224`, …
        options: as of `ImageModel`.
    """

    def __init__(self, num_classes: int = 7, *, model_name: str = "deit_tiny_distilled_patch16_224", **options) -> None:
        if "distilled" not in model_name:
            raise ValueError(f"model_name: expected a distilled ViT, which has the token, got {model_name!r}")
        super().__init__(num_classes, model_name=model_name, **options)
        self.token_head = nn.Linear(self.body.num_features, num_classes)

    def forward_head(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        ours, token = self.head(self.head_drop(features[:, 0])), self.token_head(self.head_drop(features[:, 1]))
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
        self.kind, self.alpha, self.temperature = kind, 0.0 if kind == "none" else alpha, temperature

    def forward(self, logits: Tensor | tuple[Tensor, Tensor], labels: Tensor, taught: Tensor | None = None) -> Tensor:
        """`taught`: the teacher's logits (B, C); None where they are not asked for, as in validation."""
        ours, token = logits if isinstance(logits, tuple) else (logits, logits)
        loss = F.cross_entropy(ours.float(), labels)
        if taught is None or not self.alpha:
            return loss
        if self.kind == "soft":
            student, teacher = ours.float() / self.temperature, taught.float() / self.temperature
            said = self.temperature**2 * F.kl_div(
                student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean"
            )
        else:
            said = F.cross_entropy((token if self.kind == "token" else ours).float(), taught.argmax(-1))
        return (1 - self.alpha) * loss + self.alpha * said


class AskTeacher(Callback):
    """Put a frozen teacher's logits of the very same training images, as they were changed, beside the labels."""

    order = -4  # after AugmentImages, before anything is cast

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = freeze(teacher)

    def before_batch(self) -> None:
        if self.training:
            with torch.no_grad():
                self.learn.yb = (self.y, self.teacher(self.x))

    def after_batch(self) -> None:
        self.learn.yb = self.yb[:1]


def build_expression_learner(
    student: nn.Module, teacher: nn.Module, dls: DataLoaders, loss: ExpressionLoss, *, folder: Path, cbs: list[Callback]
) -> Learner:
    """`training.build_learner` of the whole student with the teacher beside it; `training.fit` trains it.

    Args:
        teacher: any model over the same images; frozen here.
        dls: as `training.face_dls` of the student.

    Raises:
        ValueError: a `token` without a `TokenViT`, or a teacher of other classes.
    """
    if (loss.kind == "token") != isinstance(student, TokenViT):
        raise ValueError(f"student: expected a TokenViT for kind token and only there, got kind {loss.kind!r}")
    student, teacher = student.to(dls.device), teacher.to(dls.device)
    with torch.no_grad():
        found = freeze(teacher)(dls.train.views[0][:2].to(dls.device)).shape[-1]
    if found != len(dls.classes):
        raise ValueError(f"teacher: expected {len(dls.classes)} classes as the faces have, got {found}")
    ask = [AskTeacher(teacher)] if loss.alpha else []
    learn = build_learner(student, dls, STRATEGIES["full"], folder=folder, cbs=[*ask, *cbs])
    learn.loss_func = loss
    return learn
