"""Segmentation metrics: overlap, boundaries and agreement with the teacher.

Pixels of 255 in the mask are ignored.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fastai.learner import Metric, ValueMetric
from fastai.metrics import LossMetric
from torch import Tensor

from fervit_lib.datasets import IGNORE

SCORES = ("miou", "fg_iou", "fg_iou_per_image", "boundary_iou", "teacher_agreement")
BOUNDARY = 0.02  # width of a boundary as a share of the diagonal (Cheng et al. 2021)


def boundary(mask: Tensor) -> Tensor:
    """The pixels of a mask within 2 % of the diagonal of its outside, (B, H, W) bool → the same.

    The image border counts as outside. Source: Cheng et al. 2021, Boundary IoU.
    """
    width = max(1, round(BOUNDARY * math.hypot(*mask.shape[1:])))
    outside = F.pad((~mask).float()[:, None], (width,) * 4, value=1.0)
    # A square maximum filter as two one-dimensional ones: far fewer operations.
    near = F.max_pool2d(F.max_pool2d(outside, (2 * width + 1, 1), 1), (1, 2 * width + 1), 1)
    return mask & (near[:, 0] > 0)


@torch.no_grad()
def count_pixels(logits: Tensor, masks: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
    """Count pixels of each image, from which `scores_from` computes all scores.

    Args:
        logits, teacher_logits: (B, 1, S, S).
        masks: (B, S, S) of 0, 1, 255.

    Returns:
        (B, 11) float64: true positives, false positives and false negatives, each for
        person, background and boundary; pixels where student and teacher agree (NaN without a
        teacher); valid pixels.
    """
    from segmentation_models_pytorch.metrics import get_stats

    valid = masks != IGNORE

    def regions(person: Tensor) -> Tensor:
        """(B, S, S) → (B, 3, S, S): person, background and boundary, without ignored pixels."""
        person = person & valid
        return torch.stack([person, ~person & valid, boundary(person) & valid], 1).byte()

    predicted = logits[:, 0] > 0
    tp, fp, fn, _ = get_stats(regions(predicted), regions(masks == 1), "multilabel")
    agree = torch.nan * tp[:, 0]
    if teacher_logits is not None:
        agree = ((predicted == (teacher_logits[:, 0] > 0)) & valid).sum((1, 2))
    totals = torch.stack([agree, valid.sum((1, 2))], 1)
    return torch.cat([tp, fp, fn, totals], 1).double()


def region_ious(counts: Tensor) -> Tensor:
    """IoU of person, background and boundary, (…, 11) → (…, 3); 1 where both masks are empty."""
    from segmentation_models_pytorch.metrics import iou_score

    tp, fp, fn = counts[..., :9].unflatten(-1, (3, 3)).unbind(-2)
    # Without a reduction: smp's "micro" is NaN on an empty union.
    return iou_score(tp, fp, fn, None, reduction=None)


def scores_from(counts: Tensor) -> dict[str, Tensor]:
    """Counts (…, N, 11) of N images → each of `SCORES` (…).

    An IoU is of the pixels of all images together; `fg_iou_per_image` is the mean over images.
    """
    total = counts.sum(-2)
    person, background, edge = region_ious(total).unbind(-1)
    return {
        "miou": (person + background) / 2,
        "fg_iou": person,
        "fg_iou_per_image": region_ious(counts)[..., 0].mean(-1),
        "boundary_iou": edge,
        "teacher_agreement": total[..., 9] / total[..., 10].clamp(min=1),
    }


class ValidationScores(Metric):
    """Collects pixel counts of the validation images for all scores of a Learner.

    It is itself the metric of the first score; the others only read from it, so that each batch is
    counted once.
    """

    name = SCORES[0]

    def reset(self) -> None:
        self.counts: list[Tensor] = []

    def accumulate(self, learn: Any) -> None:
        masks, teacher_logits, _ = learn.yb
        self.counts.append(count_pixels(learn.pred[0], masks, teacher_logits))

    def score(self, name: str) -> float:
        return float(scores_from(torch.cat(self.counts).cpu())[name])

    @property
    def value(self) -> float:
        return self.score(self.name)


def all_metrics(terms: tuple[str, ...]) -> list[Metric]:
    """fastai metrics: each of `SCORES`, and each of the loss's `terms` before weighting."""
    collected = ValidationScores()
    return [
        collected,
        *(ValueMetric(partial(collected.score, name), name) for name in SCORES[1:]),
        *(LossMetric(f"{name}_term") for name in terms),
    ]
