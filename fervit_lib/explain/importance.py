"""Does it matter? What the prediction does when layers of a `w+` code are taken away, mixed up or swapped.

A layer is taken away by putting the mean code of that layer in its place, which any model over codes can be asked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from fervit_lib.latents import BANDS
from fervit_lib.system.progress import progress

Predict = Callable[[Tensor], np.ndarray]  # codes (n, layers, dim) → probabilities (n, num_classes)


def band_of(layer: int) -> str:
    """The band of a layer of w+."""
    return next(band for band, layers in BANDS.items() if layer in range(layers.start, layers.stop))


def replace_layers(codes: Tensor, layers: Iterable[int], fill: Tensor) -> Tensor:
    """`codes` (n, layers, dim) with `layers` of every face as they are in `fill` (layers, dim), e.g. the mean code."""
    chosen = list(layers)
    changed = codes.clone()
    changed[:, chosen] = fill[chosen].to(codes)
    return changed


def _drop(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """What accuracy loses, with its 95% interval over faces: both arguments (n,) say which were right."""
    lost = before.astype(float) - after
    half = 1.96 * lost.std(ddof=1) / np.sqrt(len(lost))
    return {"drop": lost.mean(), "drop_low": lost.mean() - half, "drop_high": lost.mean() + half}


def leave_one_out(
    predict: Predict, codes: Tensor, labels: np.ndarray, fill: Tensor
) -> pd.DataFrame:
    """Accuracy without each layer: columns layer, band, accuracy, drop with its 95% interval over faces (paired)."""
    before = predict(codes).argmax(1) == labels
    rows = []
    for layer in progress(range(codes.shape[1]), desc="leave out", unit=" layers"):
        after = predict(replace_layers(codes, [layer], fill)).argmax(1) == labels
        rows.append(
            {
                "layer": layer,
                "band": band_of(layer),
                "accuracy": after.mean(),
                **_drop(before, after),
            }
        )
    return pd.DataFrame(rows)


def permutation_importance(
    predict: Predict, codes: Tensor, labels: np.ndarray, *, repeats: int = 3, seed: int = 0
) -> pd.DataFrame:
    """What accuracy loses when a layer is dealt out anew among the faces, columns as `leave_one_out`.

    The codes stay real ones; what a layer shares with the others is broken. The interval is over faces and repeats.
    """
    generator = torch.Generator().manual_seed(seed)
    before = np.tile(predict(codes).argmax(1) == labels, repeats)
    rows = []
    for layer in progress(range(codes.shape[1]), desc="permute", unit=" layers"):
        right = []
        for _ in range(repeats):
            changed = codes.clone()
            changed[:, layer] = codes[
                torch.randperm(len(codes), generator=generator).to(codes.device), layer
            ]
            right.append(predict(changed).argmax(1) == labels)
        after = np.concatenate(right)
        rows.append(
            {
                "layer": layer,
                "band": band_of(layer),
                "accuracy": after.mean(),
                **_drop(before, after),
            }
        )
    return pd.DataFrame(rows)


def deletion_curve(
    predict: Predict, codes: Tensor, scores: Tensor, fill: Tensor, *, insert: bool = False
) -> np.ndarray:
    """Probability of the class predicted for the whole code as layers go, the highest score first: (1 + layers,).

    A ranking that knows what counts makes deletion fall fast and insertion rise fast (Petsiuk et al. 2018, RISE). The
    mean over faces; the area under the curve is its mean.

    Args:
        scores: (n, layers) or (layers,), how much each layer is said to count.
        insert: start from `fill` and put layers in, instead of taking them out.
    """
    scores = scores.expand(len(codes), -1)
    if scores.shape != codes.shape[:2]:
        raise ValueError(
            f"scores: expected a number a layer, {tuple(codes.shape[:2])}, got {tuple(scores.shape)}"
        )
    rank = scores.argsort(dim=1, descending=True).argsort(dim=1).to(codes.device)  # 0 counts most
    faces, chosen = np.arange(len(codes)), predict(codes).argmax(1)
    curve = []
    for step in progress(
        range(codes.shape[1] + 1), desc="put in" if insert else "take out", unit=" layers"
    ):
        keep = rank < step if insert else rank >= step
        probs = predict(torch.where(keep[..., None], codes, fill.to(codes)))
        curve.append(probs[faces, chosen].mean())
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
    """The control: `deletion_curve` of random orders, each face its own, (repeats, 1 + layers)."""
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.rand(codes.shape[:2], generator=generator) for _ in range(repeats)]
    return np.stack(
        [deletion_curve(predict, codes, scores, fill, insert=insert) for scores in draws]
    )


def swap_layers(first: Tensor, second: Tensor, layers: slice | Sequence[int]) -> Tensor:
    """`first` (…, layers, dim) with `layers` from `second`."""
    swapped = first.clone()
    swapped[..., layers, :] = second[..., layers, :]
    return swapped


def swap_effect(predict: Predict, first: Tensor, second: Tensor) -> pd.DataFrame:
    """What happens to faces `first` (n, layers, dim) that get one band, or all, of faces `second`.

    A row a band: `kept` is the share still read as the first face is, `taken` as the second is. Pairs that are read
    alike to begin with say nothing and are left out; `num_pairs` remain, and where none does both shares are 0.
    """
    own, other = predict(first).argmax(1), predict(second).argmax(1)
    differ = own != other
    rows = []
    for band, layers in {**BANDS, "all": slice(None)}.items():
        mixed = predict(swap_layers(first, second, layers)).argmax(1)
        pairs = int(differ.sum())
        kept, taken = (
            int((mixed == whose)[differ].sum()) / max(pairs, 1) for whose in (own, other)
        )
        rows.append({"band": band, "kept": kept, "taken": taken, "num_pairs": pairs})
    return pd.DataFrame(rows)


def predict_without_layers(
    predict: Predict, codes: Tensor, fill: Tensor
) -> tuple[list[str], np.ndarray]:
    """Faces (n, 18, dim) with nothing, a band or a layer off: names, probabilities (n, 1 + 3 + 18, num_classes)."""
    choices: dict[str, Iterable[int]] = {"nothing": []}
    choices |= {band: range(s.start, s.stop) for band, s in BANDS.items()}
    choices |= {str(layer): [layer] for layer in range(codes.shape[1])}
    probs = [predict(replace_layers(codes, layers, fill)) for layers in choices.values()]
    return list(choices), np.stack(probs, axis=1)


def band_shares(scores: Tensor) -> pd.DataFrame:
    """How scores ≥ 0 of the layers (n, 18) divide among the bands, each face's sum 1; 95% intervals over faces.

    A row a band: share, low, high, and `even`, what a model that knows nothing of layers would give.
    """
    shares = (scores / scores.sum(1, keepdim=True).clamp(min=1e-12)).double().numpy()
    rows = []
    for band, layers in BANDS.items():
        of_band = shares[:, layers].sum(1)
        half = 1.96 * of_band.std(ddof=1) / np.sqrt(len(of_band))
        found = {
            "share": of_band.mean(),
            "low": of_band.mean() - half,
            "high": of_band.mean() + half,
        }
        rows.append({"band": band, **found, "even": (layers.stop - layers.start) / shares.shape[1]})
    return pd.DataFrame(rows)


def rank_agreement(scores: Mapping[str, Tensor], drop: np.ndarray) -> pd.DataFrame:
    """Does a method's mean ranking of the layers go with what taking them away costs?

    Args:
        scores: method → (n, layers).
        drop: (layers,) what accuracy loses without each.

    Returns:
        A row a method: `rank_correlation` (Spearman, -1 to 1; 0 is no relation), and its p-value over the layers.
    """
    rows = []
    for method, found in scores.items():
        score = found.mean(0).numpy()
        if np.ptp(score) == 0 or np.ptp(drop) == 0:  # nothing to rank
            rows.append({"method": method, "rank_correlation": 0.0, "p": 1.0})
            continue
        result = spearmanr(score, drop)
        rows.append({"method": method, "rank_correlation": result.statistic, "p": result.pvalue})
    return pd.DataFrame(rows)
