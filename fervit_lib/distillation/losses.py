"""What a student is trained for: the masks, the teacher's outputs, and a detector's features."""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.datasets import IGNORE

SCHEDULES = ("linear", "cosine", "exponential")
TERMS = ("kl", "mse", "bce", "dice", "feature")


@dataclass(frozen=True)
class LossWeights:
    """What each term of the loss counts; 0: it is not part of it."""

    kl: float = 1.0  # the teacher's probabilities, at a temperature
    mse: float = 0.5  # the teacher's probabilities, squared error
    bce: float = 0.5  # the mask
    dice: float = 1.0  # the mask, over the batch
    feature: float = 0.5  # the detector's features

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (math.isfinite(value := getattr(self, field.name)) and value >= 0):
                raise ValueError(
                    f"{field.name}_weight: expected a number of 0 or more, got {value}"
                )

    @property
    def outputs(self) -> bool:
        """Whether the teacher is needed."""
        return self.kl > 0 or self.mse > 0


def temperature_at(progress: float, start: float, end: float, schedule: str) -> float:
    """The temperature at `progress` = epoch / (epochs - 1) in [0, 1], from `start` to `end`, both above 0.

    Raises:
        ValueError: an unknown schedule, or a temperature or progress out of range.
    """
    if not (start > 0 and end > 0):
        raise ValueError(f"temperature: expected numbers above 0, got {start} to {end}")
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected a share in [0, 1], got {progress}")
    if schedule == "linear":
        return start + (end - start) * progress
    if schedule == "cosine":
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
    if schedule == "exponential":
        return start * math.exp(progress * math.log(end / start))
    raise ValueError(
        f"temperature_schedule: expected one of {', '.join(SCHEDULES)}, got {schedule!r}"
    )


def binary_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, valid: Tensor | None = None
) -> Tensor:
    """T² times the mean KL divergence from the student's Bernoulli distributions to the teacher's, both at T.

    p·log(p/q) + (1-p)·log((1-p)/(1-q)) with p = σ(teacher / T), q = σ(student / T), from logits throughout: finite
    wherever they are. T² keeps the size of its gradient as T changes (Hinton et al. 2015, section 2).

    Args:
        valid: of the same shape, bool: what counts; None: all.

    Raises:
        ValueError: unequal shapes, or a temperature that is not above 0.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits: expected the student's shape {tuple(student_logits.shape)}, got "
            f"{tuple(teacher_logits.shape)}; give both the same images"
        )
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    student, teacher = student_logits.float() / temperature, teacher_logits.float() / temperature
    p = teacher.sigmoid()
    kl = p * (F.logsigmoid(teacher) - F.logsigmoid(student)) + (1 - p) * (
        F.logsigmoid(-teacher) - F.logsigmoid(-student)
    )
    return temperature**2 * _mean(kl, valid)


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - Dice of probabilities against masks of 0 and 1, over the whole batch: an empty mask does not dominate it."""
    probs, target = logits.sigmoid() * valid, target * valid
    return 1 - (2 * (probs * target).sum() + 1) / (probs.sum() + target.sum() + 1)


def feature_loss(projected: Tensor, features: Tensor) -> Tensor:
    """Mean squared error of the projected student's features. Raises ValueError if shapes differ."""
    if projected.shape != features.shape:
        raise ValueError(
            f"features: expected {tuple(projected.shape)}, as the student's projected, got {tuple(features.shape)}; "
            f"build the projector from the shapes of this source"
        )
    return F.mse_loss(projected.float(), features.float())


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    return values.mean() if valid is None else (values * valid).sum() / valid.sum().clamp(min=1)


class DistillLoss(nn.Module):
    """The weighted sum of all terms; pixels of 255 in the mask count in none of those over pixels.

    Attributes:
        temperature: of the KL; a callback lowers it.
        terms: each term of the last batch before weighing, detached.
    """

    def __init__(self, weights: LossWeights, temperature: float = 3.0) -> None:
        super().__init__()
        self.weights, self.temperature = weights, temperature
        self.terms: dict[str, Tensor] = {}

    def forward(
        self,
        predicted: tuple[Tensor, Tensor | None],
        masks: Tensor,
        teacher_logits: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            predicted: logits (B, 1, S, S), and projected features (B, C, h, w) or None.
            masks: (B, S, S) of 0, 1, 255.
            teacher_logits: (B, 1, S, S).
            features: (B, C, h, w), the detector's.
        """
        logits, projected = predicted[0].float(), predicted[1]
        masks = masks[:, None]
        if logits.shape != masks.shape:
            raise ValueError(
                f"masks: expected {tuple(logits.shape)} as the logits, got {tuple(masks.shape)}"
            )
        valid = masks != IGNORE
        target = (masks == 1).float()
        terms = {
            "bce": _mean(
                F.binary_cross_entropy_with_logits(logits, target, reduction="none"), valid
            ),
            "dice": dice_loss(logits, target, valid),
        }
        if teacher_logits is not None:
            terms["kl"] = binary_kl(logits, teacher_logits, self.temperature, valid)
            terms["mse"] = _mean((logits.sigmoid() - teacher_logits.float().sigmoid()) ** 2, valid)
        if features is not None and projected is not None:
            terms["feature"] = feature_loss(projected, features)
        used = {
            name: getattr(self.weights, name) for name in TERMS if getattr(self.weights, name) > 0
        }
        if missing := set(used) - set(terms):
            raise ValueError(
                f"targets: the loss weighs {', '.join(sorted(missing))}, but the batch has nothing for it"
            )
        self.terms = {name: term.detach() for name, term in terms.items()}
        return torch.stack([weight * terms[name] for name, weight in used.items()]).sum()
