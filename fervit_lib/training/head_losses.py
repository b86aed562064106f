"""Losses that make the attention heads of a ViT differ, and the callback that adds them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from fastai.callback.core import Callback
from torch import Tensor

from fervit_lib.models.attention import (
    SIMILARITIES,
    Heads,
    attention_modules,
    capture_heads,
    head_similarity,
)
from fervit_lib.system.names import check_choice


def _pairs(similarity: Tensor) -> Tensor:
    """(H, H) → the similarity of each pair of different heads, (H · (H - 1) / 2,)."""
    row, column = torch.triu_indices(*similarity.shape, offset=1, device=similarity.device)
    return similarity[row, column]


def disagreement_loss(heads: Heads, kind: str) -> Tensor:
    """Mean similarity of two different heads, -1 to 1 (Li et al. 2018); lower: they disagree more.

    Args:
        kind: subspace, position or output, see `head_similarity`.
    """
    return _pairs(head_similarity(heads, kind)).mean()


def margin_diversity_loss(heads: Heads, margin: float) -> Tensor:
    """How much two attention maps fall short of the distance `margin`, mean over pairs of heads.

    The distance is one minus the cosine of their rows, 0 to 1. The loss is 0 to `margin`.
    """
    distance = 1 - _pairs(head_similarity(heads, "position"))
    return (margin - distance).relu().mean()


class HeadPenalty(Callback):
    """Add weighted losses of the heads, mean over the attention modules, to the training loss.

    The heads are captured in the forward pass that is trained on. Validation is unchanged.

    Args:
        terms: pairs of a loss of one module's heads, and its weight.
    """

    order = 20  # the context of its forward pass lies within that of autocast (`Bf16`, 10)

    def __init__(self, terms: Sequence[tuple[Callable[[Heads], Tensor], float]]) -> None:
        self.terms = terms
        self.heads: list[Heads] = []

    def before_fit(self) -> None:
        if any(module.num_heads < 2 for module in attention_modules(self.model)):
            raise ValueError(
                "num_heads: expected at least 2 with a penalty on similar heads, got 1; "
                "add heads, or set disagreement=none and head_margin=0"
            )
        if self.model._compiled_call_impl is not None:
            raise ValueError(
                "compile: expected false with a penalty on similar heads, got true; "
                "the heads of a compiled model cannot be captured"
            )

    @contextmanager
    def around_forward(self) -> Iterator[None]:
        if not self.training:
            yield
            return
        with capture_heads(self.model) as self.heads:
            yield

    def after_loss(self) -> None:
        if self.training:
            penalties = [
                weight * loss(heads) for loss, weight in self.terms for heads in self.heads
            ]
            # fastai differentiates `loss_grad`, and shows its copy `loss`: both need the penalties.
            self.learn.loss_grad = self.loss_grad + torch.stack(penalties).sum() / len(self.heads)
            self.learn.loss = self.loss_grad.clone()

    def after_batch(self) -> None:
        self.heads = []  # frees the graph of this batch


def head_penalties(
    disagreement: str = "none",
    disagreement_weight: float = 0.1,
    head_margin: float = 0.0,
    margin_weight: float = 0.1,
) -> list[HeadPenalty]:
    """The callbacks for penalties on similar heads: none or one.

    Args:
        disagreement: none, or what heads should differ in: subspace, position, output.
        head_margin: distance that two attention maps should keep, 0 to 1; 0: off.
    """
    check_choice("disagreement", disagreement, ("none", *SIMILARITIES))
    if not 0 <= head_margin <= 1:
        raise ValueError(f"head_margin: expected 0 to 1, or 0 for off, got {head_margin}")
    terms = []
    if disagreement != "none":
        terms.append((partial(disagreement_loss, kind=disagreement), disagreement_weight))
    if head_margin:
        terms.append((partial(margin_diversity_loss, margin=head_margin), margin_weight))
    return [HeadPenalty(terms)] if terms else []
