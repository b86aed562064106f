"""Which layers of a `w+` code matter: predictions with layers removed, permuted or swapped.

A layer is removed by replacing it with the mean code's, which works for any model over codes.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from fervit_lib.latents import BANDS, layer_bands
from fervit_lib.system.progress import progress

Predict = Callable[[Tensor], np.ndarray]  # codes (n, layers, dim) → probabilities (n, num_classes)


def band_of(layer: int) -> str:
    """The band of a layer of `w+`."""
    return next(band for band, layers in BANDS.items() if layer < layers.stop)


def _mean_and_ci(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of values (n,), and the ends of its 95% CI."""
    mean = values.mean()
    half_width = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return mean, mean - half_width, mean + half_width


def leave_one_out(
    predict: Predict, codes: Tensor, labels: np.ndarray, fill: Tensor
) -> pd.DataFrame:
    """Accuracy without each layer, one row per layer: layer, band, accuracy, drop.

    `drop_low` and `drop_high` are the paired 95% CI of the drop in accuracy over faces.

    Args:
        fill: what replaces a layer: (layers, dim), or one for each of the codes.
    """
    before = predict(codes).argmax(1) == labels
    rows = []
    for layer in progress(range(codes.shape[1]), desc="layers", unit=" layers"):
        after = predict(swap_layers(codes, fill, [layer])).argmax(1) == labels
        drop = _mean_and_ci(before.astype(float) - after)
        rows.append((layer, band_of(layer), after.mean(), *drop))
    columns = ["layer", "band", "accuracy", "drop", "drop_low", "drop_high"]
    return pd.DataFrame(rows, columns=columns)


def permutation_importance(
    predict: Predict, codes: Tensor, labels: np.ndarray, seed: int = 0
) -> pd.DataFrame:
    """Accuracy when a layer is permuted among the faces; columns as in `leave_one_out`.

    Every layer is still one of a real face, but no longer fits the other layers of its code.
    """
    generator = torch.Generator().manual_seed(seed)
    permuted = [layer[torch.randperm(len(layer), generator=generator)] for layer in codes.unbind(1)]
    return leave_one_out(predict, codes, labels, torch.stack(permuted, dim=1))


def deletion_curve(
    predict: Predict, codes: Tensor, scores: Tensor, fill: Tensor, *, insert: bool = False
) -> np.ndarray:
    """Mean probability of the originally predicted class as layers are removed: (1 + layers,).

    Layers are removed in order of their scores, the highest first. A ranking of what matters
    makes deletion fall fast and insertion rise fast (Petsiuk et al. 2018, RISE); the area under
    the curve is the curve's mean.

    Args:
        scores: (n, layers) or (layers,).
        insert: start from `fill` and insert layers instead.
    """
    scores = scores.expand(len(codes), -1)
    if scores.shape != codes.shape[:2]:
        raise ValueError(
            f"scores: expected one per layer, {tuple(codes.shape[:2])}, got {tuple(scores.shape)}"
        )
    # argsort of argsort: position → rank.
    rank = scores.argsort(dim=1, descending=True).argsort(dim=1).to(codes.device)  # 0: highest
    predicted = predict(codes).argmax(1)
    curve = []
    steps = range(codes.shape[1] + 1)
    for step in progress(steps, desc="insert" if insert else "delete", unit=" layers"):
        keep = rank < step if insert else rank >= step
        probs = predict(torch.where(keep[..., None], codes, fill.to(codes)))
        curve.append(probs[np.arange(len(codes)), predicted].mean())
    return np.array(curve)


def random_curves(
    predict: Predict,
    codes: Tensor,
    fill: Tensor,
    *,
    insert: bool = False,
    repeats: int = 3,
    seed: int = 0,
) -> np.ndarray:
    """The control of `deletion_curve`: a random order for each face, (repeats, 1 + layers)."""
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(codes.shape[:2], generator=generator) for _ in range(repeats)]
    return np.stack([deletion_curve(predict, codes, s, fill, insert=insert) for s in scores])


def swap_layers(first: Tensor, second: Tensor, layers: slice | Sequence[int]) -> Tensor:
    """`first` (…, layers, dim) with `layers` from `second`, such as the mean code (layers, dim)."""
    swapped = first.clone()
    swapped[..., layers, :] = second.to(first)[..., layers, :]
    return swapped


def swap_effect(
    predict: Predict, first: Tensor, second: Tensor, mixed: Mapping[str, Tensor]
) -> pd.DataFrame:
    """Predictions for mixtures of faces `first` (n, …) and `second`, codes or images.

    Args:
        mixed: by name, (n, …); of codes by `swap_layers`, of images by `shape_and_texture`.

    Returns:
        One row per mixture: mixture; kept and taken, the shares predicted as the first and as the
        second face of a pair; num_pairs. Pairs with equal predictions before are left out; if none
        remains, both shares are 0.
    """
    predicted, other = predict(first).argmax(1), predict(second).argmax(1)
    differ = predicted != other
    num_pairs = differ.sum()
    rows = []
    for name, faces in mixed.items():
        after = predict(faces).argmax(1)
        own, others = (
            (after == label)[differ].sum() / max(num_pairs, 1) for label in (predicted, other)
        )
        rows.append({"mixture": name, "kept": own, "taken": others, "num_pairs": num_pairs})
    return pd.DataFrame(rows)


def band_shares(scores: Tensor) -> pd.DataFrame:
    """Share of each band in scores ≥ 0 of the layers (n, layers), normalised to sum 1 per face.

    Returns:
        One row per band: share; low and high, its 95% CI over faces; even, the share of the band
        if all layers score alike.
    """
    shares = (scores / scores.sum(1, keepdim=True).clamp(min=1e-12)).double().numpy()
    rows = []
    for band, layers in layer_bands(shares.shape[1]).items():
        even = len(layers) / shares.shape[1]
        rows.append((band, *_mean_and_ci(shares[:, layers].sum(1)), even))
    return pd.DataFrame(rows, columns=["band", "share", "low", "high", "even"])


def rank_agreement(scores: Mapping[str, Tensor], drop: np.ndarray) -> pd.DataFrame:
    """Does a method rank the layers as their removal does?

    Args:
        scores: by method, (n, layers).
        drop: (layers,) drop in accuracy without each layer.

    Returns:
        One row per method: rank_correlation (Spearman's, in [-1, 1]) and its p-value over layers.
        If all scores or all drops are equal: 0 and 1.
    """
    rows = []
    for method, values in scores.items():
        score = values.mean(0).numpy()
        can_rank = np.ptp(score) > 0 and np.ptp(drop) > 0
        correlation, p = spearmanr(score, drop) if can_rank else (0.0, 1.0)
        rows.append({"method": method, "rank_correlation": correlation, "p": p})
    return pd.DataFrame(rows)
