"""Losses that keep the heads of a ViT from doing the same, and the callback that adds them to a fit."""

from collections.abc import Callable, Sequence
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
from fervit_lib.system import distributed

DISAGREEMENTS = ("none", *SIMILARITIES)


def _pairs(similarity: Tensor) -> Tensor:
    """(H, H) → the similarity of each pair of different heads."""
    row, column = torch.triu_indices(*similarity.shape, offset=1)
    return similarity[row, column]


def disagreement_loss(heads: Heads, kind: str) -> Tensor:
    """Mean similarity of two different heads, -1 to 1; the lower, the more they disagree (Li et al. 2018).

    Args:
        kind: subspace, position or output, see `head_similarity`.
    """
    return _pairs(distributed.mean(head_similarity(heads, kind))).mean()


def margin_diversity_loss(heads: Heads, margin: float) -> Tensor:
    """How far the maps of two heads are short of `margin` apart, mean over pairs, 0 to `margin`.

    Distance is one minus the cosine of their rows, 0 to 1. Heads further apart than `margin` are left alone.
    """
    return (
        (margin - (1 - _pairs(distributed.mean(head_similarity(heads, "position"))))).relu().mean()
    )


class HeadPenalty(Callback):
    """Add weighted losses of heads, mean over the attention modules, to the training loss.

    The heads are read from the very pass that is trained on. Validation is left as it is.

    Args:
        terms: each a loss of the heads of one module, and its weight.
    """

    order = 20  # after `Bf16`

    def __init__(self, terms: Sequence[tuple[Callable[[Heads], Tensor], float]]) -> None:
        self.terms = terms

    def before_fit(self) -> None:
        if any(module.num_heads < 2 for module in attention_modules(self.model)):
            raise ValueError(
                "num_heads: expected at least 2 where heads shall differ, got 1; add heads or drop the penalty"
            )

        if self.model._compiled_call_impl is not None:
            raise ValueError(
                "compile: expected false where heads shall differ, got true; a compiled pass does not show its heads"
            )

    def before_batch(self) -> None:
        if self.training:
            self.model.forward = self._watched_forward  # for one pass

    def _watched_forward(self, *inputs: Tensor) -> Tensor:
        del (
            self.model.forward
        )  # its class's again, whatever happens: an interrupted fit leaves the model as it was
        with capture_heads(self.model) as self.heads:
            return self.model.forward(*inputs)

    def after_loss(self) -> None:
        if self.training:
            penalties = [
                weight * loss(heads) for loss, weight in self.terms for heads in self.heads
            ]
            self.learn.loss_grad = self.loss_grad + torch.stack(penalties).sum() / len(self.heads)
            self.learn.loss = self.loss_grad.clone()

    def after_batch(self) -> None:
        self.heads = []  # else the graph of this batch stays until the next


def head_penalties(
    disagreement: str = "none",
    disagreement_weight: float = 0.1,
    head_margin: float = 0.0,
    margin_weight: float = 0.1,
) -> list[HeadPenalty]:
    """The callbacks that a training run asks for; none by default.

    Args:
        disagreement: none, or what heads shall disagree in: subspace, position, output.
        head_margin: distance that the maps of two heads shall keep, 0 to 1; 0 is off.
        disagreement_weight, margin_weight: of these terms beside the loss of the classes.
    """
    if disagreement not in DISAGREEMENTS:
        raise ValueError(
            f"disagreement: expected one of {', '.join(DISAGREEMENTS)}, got {disagreement!r}"
        )
    if not 0 <= head_margin <= 1:
        raise ValueError(
            f"head_margin: expected a distance in [0, 1], 0 for none, got {head_margin}"
        )
    terms = []
    if disagreement != "none":
        terms.append((partial(disagreement_loss, kind=disagreement), disagreement_weight))
    if head_margin:
        terms.append((partial(margin_diversity_loss, margin=head_margin), margin_weight))
    return [HeadPenalty(terms)] if terms else []
