"""The smallest change of a code that changes what a model reads."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.explain.directions import limit_to
from fervit_lib.system.names import check_range

_CANDIDATES = 10  # classes whose boundaries are considered, the likeliest
_HALVINGS = 20  # of the way: the last step may lead far beyond the boundary


def smallest_flips(
    model: nn.Module, codes: Tensor, layers: Sequence[int], max_steps: int = 15
) -> tuple[Tensor, Tensor]:
    """Codes (n, layers, dim) moved just far enough for another prediction, or unchanged.

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

    Raises:
        ValueError: the codes have no such layer.
    """
    check_range("layers", max(layers, default=0), 0, codes.shape[1])
    codes = codes.to(next(model.parameters()).device)
    moved = codes.clone()
    before = _predict(model, codes)
    for _ in range(max_steps):
        unchanged = _predict(model, moved) == before
        if not unchanged.any():
            break
        moved[unchanged] += _step(model, moved[unchanged], layers)
    low, high = torch.zeros(len(codes), 1, 1).to(codes), torch.ones(len(codes), 1, 1).to(codes)
    change = moved - codes
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        changed = (_predict(model, codes + middle * change) != before)[:, None, None]
        low, high = torch.where(changed, low, middle), torch.where(changed, middle, high)
    # A hundredth beyond the boundary, where no rounding changes the prediction back.
    moved = codes + 1.01 * high * change
    changed = _predict(model, moved) != before
    return moved.where(changed[:, None, None], codes).cpu(), changed.cpu()


@torch.inference_mode()
def _predict(model: nn.Module, codes: Tensor) -> Tensor:
    return model(codes).argmax(1)


@torch.enable_grad()
def _step(model: nn.Module, codes: Tensor, layers: Sequence[int]) -> Tensor:
    """The shortest way from codes to another of their likeliest classes, were the logits linear."""
    codes = codes.detach().requires_grad_()
    logits = model(codes)
    top = logits.topk(min(_CANDIDATES, logits.shape[1])).values
    margins = top - top[:, :1]  # (n, candidates), 0 for the class that is predicted
    slopes = [
        torch.autograd.grad(margin.sum(), codes, retain_graph=True)[0]
        for margin in margins.unbind(1)
    ]
    slope = limit_to(torch.stack(slopes, dim=1), layers)  # (n, candidates, layers, dim)
    steepness = slope.flatten(2).norm(dim=2).clamp(min=1e-12)
    distance = margins.abs() / steepness
    distance[:, 0] = torch.inf
    nearest = distance.argmin(1)
    rows = torch.arange(len(codes), device=codes.device)
    # A little beyond the boundary, where the prediction has changed.
    length = (1.02 * margins.abs() + 1e-4)[rows, nearest] / steepness[rows, nearest].square()
    return (length[:, None, None] * slope[rows, nearest]).detach()


def face_distance(codes: Tensor) -> float:
    """The median distance of two faces (n, layers, dim): a scale for changes.

    Of about 200 faces, as there are many pairs.
    """
    some = codes[:: max(1, len(codes) // 200)].flatten(1)
    return float(np.median(F.pdist(some).numpy()))
