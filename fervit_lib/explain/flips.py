"""The smallest change of a code that changes what a model reads."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.explain.directions import limit_to

_HALVINGS = 20  # of the way: the last step may lead far beyond the boundary


def smallest_flips(
    model: nn.Module, codes: Tensor, layers: Sequence[int], max_steps: int = 30
) -> tuple[Tensor, Tensor]:
    """Codes (n, layers, dim) moved just far enough for another prediction.

    DeepFool (Moosavi-Dezfooli et al. 2016): the logits are taken as linear, and a code goes the
    shortest way to the nearest boundary, until the prediction changes. Then it goes back as far as
    the new prediction allows. This is an upper limit of the smallest change.

    Args:
        model: in eval mode.
        layers: that may change.
        max_steps: steps to a boundary at most.

    Returns:
        The codes, on the CPU; and (n,) whether each changed its prediction: one that never did
        is returned as it was.
    """
    codes = codes.to(next(model.parameters()).device)
    moved = codes.clone()
    before = _predict(model, codes)
    for _ in range(max_steps):
        closed = _predict(model, moved) != before
        if closed.all():
            break
        moved[~closed] += _step(model, moved[~closed], before[~closed], layers)
    low, high = torch.zeros(len(codes), 1, 1).to(codes), torch.ones(len(codes), 1, 1).to(codes)
    way = moved - codes
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        changed = (_predict(model, codes + middle * way) != before)[:, None, None]
        low, high = torch.where(changed, low, middle), torch.where(changed, middle, high)
    # A hundredth beyond the boundary, where no rounding changes the prediction back.
    moved = codes + 1.01 * high * way
    changed = _predict(model, moved) != before
    return moved.where(changed[:, None, None], codes).cpu(), changed.cpu()


@torch.inference_mode()
def _predict(model: nn.Module, codes: Tensor) -> Tensor:
    return model(codes).argmax(1)


@torch.enable_grad()
def _step(model: nn.Module, codes: Tensor, start: Tensor, layers: Sequence[int]) -> Tensor:
    """The shortest way from codes to a class other than `start` (n,), if the logits were linear."""
    codes = codes.detach().requires_grad_()
    logits = model(codes)
    lead = logits - logits.gather(1, start[:, None])  # (n, num_classes), 0 for `start` itself
    slopes = [torch.autograd.grad(of.sum(), codes, retain_graph=True)[0] for of in lead.unbind(1)]
    slope = limit_to(torch.stack(slopes, dim=1), layers)  # (n, num_classes, layers, dim)
    steepness = slope.flatten(2).norm(dim=2).clamp(min=1e-12)
    distance = (lead.abs() / steepness).scatter(1, start[:, None], torch.inf)
    nearest = distance.argmin(1)
    each = torch.arange(len(codes), device=codes.device)
    # A little beyond the boundary, where the prediction has changed.
    length = (1.02 * lead.abs() + 1e-4)[each, nearest] / steepness[each, nearest].square()
    return (length[:, None, None] * slope[each, nearest]).detach()


def face_distance(codes: Tensor, layers: Sequence[int]) -> float:
    """The median distance of two faces (n, layers, dim) in some layers: a scale for changes."""
    return float(np.median(F.pdist(codes[:, layers].flatten(1)).numpy()))
