"""Distillation: a trained model teaches another one by its outputs (Hinton et al. 2015)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.data.core import DataLoaders
from torch import Tensor

from fervit_lib.inputs import inputs_for
from fervit_lib.latents import LatentStore, store_identity
from fervit_lib.models import ExpressionModel, load_model, trained_on
from fervit_lib.system.names import check_choice
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import display_path, resolve, use_bf16

KINDS = ("soft", "hard", "token")


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher's part in the training loss."""

    distil: str = "soft"  # see `TeacherLoss`
    weight: float = 0.5  # share of the teacher in the training loss, 0 to 1; labels have the rest
    temperature: float = 3.0  # soft: logits of teacher and student are divided by it
    once: bool = False  # compute the teacher's logits of each face once, not in every step

    def __post_init__(self) -> None:
        check_choice("distil", self.distil, KINDS)
        if not 0 <= self.weight <= 1:
            raise ValueError(f"teacher_weight: expected a share in [0, 1], got {self.weight}")
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature}")


def load_teacher(path: str, store: LatentStore, trust_code: bool = False) -> ExpressionModel:
    """Load the model of a run of 02_train, in eval mode and without trainable parameters.

    No random numbers are drawn: a taught model starts from the weights, and sees the batches, of
    an untaught one with the same seed.

    Args:
        path: the run's folder, or its checkpoint.
        store: codes, or their faces, that the teacher will see.
        trust_code: see `models.load_model`.

    Raises:
        FileNotFoundError: no such run.
        ValueError: the teacher has other classes, or reads codes of another encoder.
    """
    file = resolve(path)
    if file.suffix != ".safetensors":
        file = file / "checkpoints" / "best.safetensors"
    with torch.random.fork_rng([]):
        teacher, classes = load_model(file, trust_code)
    if classes != store.classes:
        raise ValueError(
            f"teacher: expected the classes {', '.join(store.classes)} of the faces, got "
            f"{', '.join(classes)} of {display_path(file)}; choose a run on faces of these classes"
        )
    if teacher.reads != "pixels":
        codes = trained_on(file)
        encoding = store_identity(store.folder)["encoding"]
        if codes["encoding"] != encoding:
            raise ValueError(
                f"teacher: expected a model of the codes in {display_path(store.folder)}, of the "
                f"encoding {encoding}, got one of {codes['store']}, of the encoding "
                f"{codes['encoding']}; choose another run"
            )
    return teacher.requires_grad_(False)


@torch.no_grad()
def _logits(teacher: ExpressionModel, inputs: Tensor, bf16: bool) -> Tensor:
    """Inputs of the teacher (B, …) → its logits (B, C) float32."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
        return teacher(inputs).float()


def teacher_accuracy(teacher: ExpressionModel, dls: DataLoaders) -> float:
    """Accuracy on the validation split of `face_dls`."""
    store = dls.stores["val"]
    teacher.to(dls.device)
    parts = inputs_for(teacher, store).split(256)
    logits = torch.cat([_logits(teacher, part.to(dls.device), False) for part in parts])
    return float((logits.argmax(-1).cpu() == store.labels).float().mean())


class TeacherLoss(Callback):
    """Training loss = (1 - weight) · loss of the labels + weight · loss of the teacher's logits.

    The loss of the teacher's logits is, by `distil`:
        soft: T² · KL divergence from the teacher's probabilities, both at temperature T.
        hard: cross-entropy with the teacher's class.
        token: the same for the logits of the distillation token alone (DeiT, Touvron et al. 2021,
            section 3); the labels then train the head of CLS.

    The loss of the labels stays that of the Learner, with its class weights, smoothing and mixup.
    Validation is unchanged.

    With `once`, and for a teacher that reads codes where the student reads pixels or the reverse,
    the logits are those of the faces in the store, averaged with the mirror image if the teacher
    reads pixels. Otherwise the teacher sees each batch as the student does: augmented and mixed.
    """

    order = 1  # after augmentation (-5) and mixup (0), before mixed precision (10)
    run_valid = False

    def __init__(
        self, teacher: ExpressionModel, config: TeacherConfig, precision: str = "auto"
    ) -> None:
        self.teacher = teacher
        self.config = config
        self.precision = precision
        self.logits_of_faces = None  # (N, C)

    def before_fit(self) -> None:
        if (self.config.distil == "token") != (getattr(self.model, "token_head", None) is not None):
            raise ValueError(
                f"distil: expected token for a model with token_head=True, and only there, got "
                f"{self.config.distil!r}; token needs approach image and a *_distilled_* model_name"
            )
        self.teacher.to(self.dls.device)
        self.bf16 = use_bf16(self.precision, self.dls.device)
        if not (self.config.once or self.teacher.reads != self.model.reads):
            return
        if any(isinstance(callback, MixHandler) for callback in self.learn.cbs):
            raise ValueError(
                "mixup: expected 0 with logits of the teacher that are computed once per face "
                "(teacher_once, or one of teacher and student reads codes and the other pixels), "
                "because the teacher does not see mixed faces; set mixup=0 or teacher_once=false"
            )
        inputs = inputs_for(self.teacher, self.dls.stores["train"], self.dls.chosen)
        logits = []
        total = -(-len(inputs) // 256)
        for part in progress(inputs.split(256), desc="teacher", unit=" batches", total=total):
            part = part.to(self.dls.device)
            logits.append(_logits(self.teacher, part, self.bf16))
            if self.teacher.reads == "pixels":
                logits[-1] = (logits[-1] + _logits(self.teacher, part.flip(-1), self.bf16)) / 2
        self.logits_of_faces = torch.cat(logits)

    def before_batch(self) -> None:
        if self.logits_of_faces is None:
            self.teacher_logits = _logits(self.teacher, self.x, self.bf16)
        else:
            # `epoch_faces` repeats the chosen faces in their order.
            faces = self.dl.batch_indices % len(self.logits_of_faces)
            self.teacher_logits = self.logits_of_faces[faces]

    def after_pred(self) -> None:
        if self.config.distil == "token":
            self.learn.pred, self.token_logits = self.pred

    def after_loss(self) -> None:
        weight = self.config.weight
        # fastai differentiates `loss_grad`, and shows its copy `loss`.
        self.learn.loss_grad = (1 - weight) * self.loss_grad + weight * self._teacher_loss()
        self.learn.loss = self.loss_grad.clone()

    def _teacher_loss(self) -> Tensor:
        if self.config.distil != "soft":
            is_token = self.config.distil == "token"
            logits = self.token_logits.float() if is_token else self.pred
            return F.cross_entropy(logits, self.teacher_logits.argmax(-1))
        temperature = self.config.temperature
        return temperature**2 * F.kl_div(
            (self.pred / temperature).log_softmax(-1),
            (self.teacher_logits / temperature).log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
