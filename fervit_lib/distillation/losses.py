"""Distillation loss: the masks, the teacher's outputs and the detector's features."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from fastai.callback.schedule import SchedCos, SchedExp, SchedLin
from torch import Tensor, nn

from fervit_lib.datasets import IGNORE
from fervit_lib.system.names import check_choice, check_range

SCHEDULES = {"linear": SchedLin, "cosine": SchedCos, "exponential": SchedExp}
TERMS = ("kl", "mse", "bce", "dice", "feature")
TAPS = ("decoder", "encoder", "encoder_frozen")
FEATURE_LOSSES: dict = {
    "mse": F.mse_loss,
    "cosine": lambda a, b, reduction: 1 - F.cosine_similarity(a, b, dim=2)[:, :, None],
    "smooth_l1": F.smooth_l1_loss,
}


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss term. A term of weight 0 is not computed into the loss."""

    kl: float = 1.0  # KL divergence to the teacher's probabilities, at a temperature
    mse: float = 0.5  # squared error to the teacher's probabilities
    bce: float = 0.5  # cross-entropy of the mask
    dice: float = 1.0  # Dice loss of the mask, over the whole batch
    feature: float = 0.5  # error to the detector's features, see `FeatureTerm`

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            check_range(f"{name}_weight", weight, 0)

    @property
    def outputs(self) -> bool:
        """Whether the teacher's outputs are needed."""
        return self.kl > 0 or self.mse > 0


@dataclass(frozen=True)
class FeatureTerm:
    """How the student's features are read and compared with the detector's."""

    tap: str = "decoder"  # see `TappedStudent`
    loss: str = "mse"  # one of FEATURE_LOSSES
    width: int = 768  # channels between the two convolutions of a projector
    # Where features are read: stage s has 1/2^s of the image's side; the detector's is the middle.
    stages: tuple[int, ...] = (3,)
    attention: bool = False  # weigh positions by the detector's activation
    mixture: bool = False  # compare a learned mixture of the stages, instead of each
    shuffle: bool = False  # features of another image of the batch: a control

    def __post_init__(self) -> None:
        check_choice("feature_tap", self.tap, TAPS)
        check_choice("feature_loss", self.loss, FEATURE_LOSSES)
        check_range("feature_width", self.width, 1)


def feature_loss(projected: Tensor, features: Tensor, term: FeatureTerm) -> Tensor:
    """The mean loss of all projected maps.

    With `attention` the weight of a position is the detector's squared activation there, relative
    to its mean over the image (Zagoruyko & Komodakis 2017, activation-based attention).

    Args:
        projected: (B, T, C, h, w), see `Projector`.
        features: the detector's, (B, C, h, w).
    """
    features = features.float()
    target = features[:, None].expand_as(projected)
    loss = FEATURE_LOSSES[term.loss](projected.float(), target, reduction="none").mean(2)
    if term.attention:
        energy = features.square().mean(1, keepdim=True)  # (B, 1, h, w)
        loss = loss * energy / (energy.mean((2, 3), keepdim=True) + 1e-12)
    return loss.mean()


def temperature_at(progress: float, start: float, end: float, schedule: str) -> float:
    """The temperature at `progress` = epoch / (epochs - 1).

    Args:
        progress: in [0, 1].
        start, end: temperatures at progress 0 and 1, above 0.
        schedule: linear, cosine or exponential.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not (start > 0 and end > 0):
        raise ValueError(f"temperature: expected numbers above 0, got {start} to {end}")
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected a number in [0, 1], got {progress}")
    check_choice("temperature_schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule](start, end)(progress)


def binary_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, valid: Tensor | None = None
) -> Tensor:
    """T² · mean KL(teacher ‖ student) of Bernoulli distributions at temperature T.

    With p = σ(teacher / T) and q = σ(student / T), each element is
    p·log(p/q) + (1-p)·log((1-p)/(1-q)), computed from logits so that it stays finite. The factor
    T² keeps the size of the gradient when T changes (Hinton et al. 2015, section 2).

    Args:
        student_logits, teacher_logits: of the same shape.
        temperature: above 0.
        valid: bool of the same shape, the elements to average. None: all.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits: expected the student's shape {tuple(student_logits.shape)}, got "
            f"{tuple(teacher_logits.shape)}; give both models the same images"
        )
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    student = student_logits.float() / temperature
    teacher = teacher_logits.float() / temperature
    p = teacher.sigmoid()
    # log(1 - σ(x)) = logσ(-x): `log(1 - p)` would be -inf where p rounds to 1.
    kl = p * (F.logsigmoid(teacher) - F.logsigmoid(student)) + (1 - p) * (
        F.logsigmoid(-teacher) - F.logsigmoid(-student)
    )
    return temperature**2 * _mean(kl, valid)


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    return values.mean() if valid is None else (values * valid).sum() / valid.sum().clamp(min=1)


class DistillLoss(nn.Module):
    """The weighted sum of all terms. Pixels of 255 in the mask are ignored.

    Attributes:
        temperature: of the KL term; a callback changes it each epoch.
        kl_term, mse_term, …: each term of the last batch before weighting, detached.
    """

    def __init__(
        self,
        weights: LossWeights,
        temperature: float = 3.0,
        term: FeatureTerm = FeatureTerm(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        # Imported here because smp takes seconds to import and few steps need it.
        from segmentation_models_pytorch.losses import DiceLoss

        self.weights = weights
        self.temperature = temperature
        self.term = term
        # Sums over the whole batch, so that images with few person pixels do not dominate. It is 0
        # for a batch without a person, of which only the other terms learn.
        self.dice = DiceLoss("binary", smooth=0.5, ignore_index=IGNORE)

    def forward(
        self,
        predicted: tuple[Tensor, Tensor | None],
        masks: Tensor,
        teacher_logits: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            predicted: logits (B, 1, S, S), and projected features, see `feature_loss`, or None.
            masks: (B, S, S) of 0, 1, 255.
            teacher_logits: (B, 1, S, S).
            features: the detector's, (B, C, h, w).

        Raises:
            KeyError: a term with a weight has no target.
        """
        logits = predicted[0].float()
        projected = predicted[1]
        masks = masks[:, None]  # (B, 1, S, S)
        valid = masks != IGNORE
        target = (masks == 1).float()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        terms = {"bce": _mean(cross_entropy, valid), "dice": self.dice(logits, masks)}
        if teacher_logits is not None:
            squared_error = (logits.sigmoid() - teacher_logits.float().sigmoid()) ** 2
            terms["kl"] = binary_kl(logits, teacher_logits, self.temperature, valid)
            terms["mse"] = _mean(squared_error, valid)
        if features is not None and projected is not None:
            terms["feature"] = feature_loss(projected, features, self.term)
        for name, term in terms.items():
            setattr(self, f"{name}_term", term.detach())
        weights = asdict(self.weights).items()
        return torch.stack([weight * terms[name] for name, weight in weights if weight > 0]).sum()
