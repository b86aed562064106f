"""How well masks are found: overlap, edges, and agreement with the teacher. Pixels of 255 count nowhere."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from fastai.learner import Metric
from torch import Tensor

from fervit_lib.datasets import IGNORE

COUNTS = (
    "inter", "union", "back_inter", "back_union", "edge_inter", "edge_union", "agree", "valid",
)  # fmt: skip
SCORES = ("miou", "fg_iou", "fg_iou_per_image", "boundary_iou", "teacher_agreement")
BOUNDARY = 0.02  # of the diagonal: the width of an edge (Cheng et al. 2021)


def boundary(mask: Tensor) -> Tensor:
    """(B, H, W) bool → the pixels of a mask that are no further than 2% of the diagonal from its outside.

    The picture's border is outside, as in Cheng et al. 2021, Boundary IoU.
    """
    width = max(1, round(BOUNDARY * math.hypot(*mask.shape[1:])))
    outside = F.pad((~mask).float()[:, None], (width,) * 4, value=1.0)
    near = F.max_pool2d(F.max_pool2d(outside, (2 * width + 1, 1), 1), (1, 2 * width + 1), 1)[:, 0]
    return mask & (near > 0)


@torch.no_grad()
def count_pixels(logits: Tensor, masks: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
    """Logits (B, 1, S, S), masks (B, S, S) of 0, 1, 255 → (B, 8) counts as `COUNTS`, float64 on the CPU.

    Without a teacher `agree` is no number.
    """
    valid = masks != IGNORE
    found, true = (logits[:, 0] > 0) & valid, (masks == 1) & valid
    edges = boundary(found) & valid, boundary(true) & valid
    pairs = ((found, true), (~found & valid, ~true & valid), edges)
    counts = [value.sum((1, 2)) for a, b in pairs for value in (a & b, a | b)]
    agree = torch.full((len(masks),), torch.nan, device=masks.device)
    if teacher_logits is not None:
        agree = (((logits > 0) == (teacher_logits > 0))[:, 0] & valid).sum((1, 2))
    return torch.stack([c.double() for c in (*counts, agree, valid.sum((1, 2)))], 1).cpu()


def scores_from(counts: Tensor) -> dict[str, Tensor]:
    """Counts (…, N, 8) of N images → each of `SCORES` (…).

    IoUs are of the whole set, pixels of all images together, and `fg_iou_per_image` is the mean of each image's. With
    nothing to find and nothing found, an IoU is 1.
    """
    total = dict(zip(COUNTS, counts.sum(-2).unbind(-1), strict=True))
    each = dict(zip(COUNTS, counts.unbind(-1), strict=True))

    def iou(inter: Tensor, union: Tensor) -> Tensor:
        return torch.where(union > 0, inter / union.clamp(min=1), 1.0)

    foreground = iou(total["inter"], total["union"])
    return {
        "miou": (foreground + iou(total["back_inter"], total["back_union"])) / 2,
        "fg_iou": foreground,
        "fg_iou_per_image": iou(each["inter"], each["union"]).mean(-1),
        "boundary_iou": iou(total["edge_inter"], total["edge_union"]),
        "teacher_agreement": total["agree"] / total["valid"].clamp(min=1),
    }


class Counts:
    """What the metrics of one learner share: the counts of the validation images, taken once a batch."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.terms: dict[str, list[tuple[float, int]]] = {}

    def reset(self) -> None:
        self.parts, self.terms = [], {}

    def add(self, learn: Any) -> None:
        masks, teacher_logits = learn.yb[0], learn.yb[1] if len(learn.yb) > 1 else None
        self.parts.append(count_pixels(learn.pred[0], masks, teacher_logits))
        for name, value in learn.loss_func.terms.items():
            self.terms.setdefault(name, []).append((value.item(), len(masks)))


class SharedMetric(Metric):
    """One of `SCORES`, or with `term` the mean of that term of the loss. The first of all counts for the others."""

    def __init__(
        self, counts: Counts, name: str, *, leads: bool = False, term: bool = False
    ) -> None:
        self.counts, self.title, self.leads, self.term = counts, name, leads, term

    def reset(self) -> None:
        if self.leads:
            self.counts.reset()

    def accumulate(self, learn: Any) -> None:
        if self.leads:
            self.counts.add(learn)

    @property
    def value(self) -> float:
        if not self.term:
            return float(scores_from(torch.cat(self.counts.parts))[self.title])
        values = self.counts.terms.get(self.title, [])
        return (
            sum(v * n for v, n in values) / max(1, sum(n for _, n in values))
            if values
            else math.nan
        )

    @property
    def name(self) -> str:
        return f"{self.title}_term" if self.term else self.title


def all_metrics(terms: tuple[str, ...]) -> list[SharedMetric]:
    """A metric for each of `SCORES` and each of the loss's `terms`."""
    counts = Counts()
    return [SharedMetric(counts, name, leads=i == 0) for i, name in enumerate(SCORES)] + [
        SharedMetric(counts, name, term=True) for name in terms
    ]
