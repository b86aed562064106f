"""Directions in `w+` that change the expression of a face, and their controls.

InterFaceGAN (Shen et al. 2020) fits one vector of 512 on codes drawn from the generator's W, and
moves all layers by it. Here each layer has a vector of its own, fitted on labelled codes of
photographs. Such codes need not lie in W.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.datasets import EMOTIONS, toy_face
from fervit_lib.encoders import encoder_dtype
from fervit_lib.explain.importance import Predict
from fervit_lib.latents import SHARD_SIZE, LatentStore, layer_bands
from fervit_lib.system.names import check_choice, split_names
from fervit_lib.system.shards import MappedRows

PENALTY = 10.0  # of the regression, in mean variances of a layer's dimensions
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)


def expression_directions(
    store: LatentStore, seed: int | None = None, faces: np.ndarray | None = None
) -> Tensor:
    """What moves a code to each class, (num_classes, layers, dim), from the faces of `store`.

    In each layer the direction of a ridge regression of "of this class or not" on the codes, with
    a large penalty: what tells classes apart best is not what differs most between them (Haufe et
    al. 2014). Its length is that between the means of the class and of all other faces along it,
    so that a step of 1 takes the one to the other. A class of no faces, or of all, has zeros.

    Args:
        store: training faces only.
        seed: permute the labels: random directions, as spread as the codes are, of the same length
            in each layer. They are the control.
        faces: (n,) indices of those to use; None: all.

    Raises:
        ValueError: no faces.
    """
    faces = np.arange(len(store)) if faces is None else faces
    if not len(faces):
        raise ValueError("faces: expected at least one training face, got none; give more")
    codes = store.rows.subset(faces)
    one_hot = F.one_hot(store.labels[faces], len(store.classes)).float()
    fitted = _fit_directions(codes, one_hot)
    if seed is None:
        return fitted
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(seed))
    random = F.normalize(_fit_directions(codes, one_hot[order]), dim=-1)
    return random * fitted.norm(dim=-1, keepdim=True)


def _fit_directions(rows: MappedRows, one_hot: Tensor) -> Tensor:
    """Directions of the classes of `one_hot` (n, num_classes), see `expression_directions`."""
    sums, gram = torch.zeros(()), torch.zeros(())
    # In parts, as a set may be larger than memory.
    parts = zip(rows.split(SHARD_SIZE), one_hot.split(SHARD_SIZE), strict=True)
    for part, targets in parts:
        codes = part.float().transpose(0, 1)  # (layers, n, dim)
        sums = sums + targets.T @ codes
        gram = gram + codes.mT @ codes
    counts = one_hot.sum(0)[:, None]
    total = sums.sum(1, keepdim=True)  # (layers, 1, dim)
    mean = total / len(one_hot)
    covariance = gram / len(one_hot) - mean.mT @ mean
    # Not 0, as that of a layer that is equal in all codes.
    variance = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-4)
    penalty = PENALTY * variance[:, None, None] * torch.eye(covariance.shape[-1])
    others = (total - sums) / (len(one_hot) - counts).clamp(min=1)
    is_defined = (counts > 0) & (counts < len(one_hot))
    difference = (sums / counts.clamp(min=1) - others) * is_defined  # (layers, num_classes, dim)
    # By Cholesky: torch's LU of a batch of matrices hangs in a forked kernel, with MKL.
    weights = torch.cholesky_solve(difference.mT, torch.linalg.cholesky(covariance + penalty)).mT
    weights = F.normalize(weights, dim=-1)
    return ((weights * difference).sum(-1, keepdim=True) * weights).transpose(0, 1).contiguous()


def limit_to(directions: Tensor, layers: Sequence[int]) -> Tensor:
    """Directions (…, layers, dim) that leave all but some layers unchanged."""
    limited = torch.zeros_like(directions)
    limited[..., layers, :] = directions[..., layers, :]
    return limited


def training_directions(
    store: LatentStore, faces: np.ndarray, bands: str, along: str, seed: int = 0
) -> Tensor:
    """Directions that `training.AugmentCodes` moves codes along: `expression_directions` in bands.

    Args:
        faces: (n,) indices of the training faces; no others are read.
        bands: the names of those that move, separated by commas.
        along: emotion; or random, drawn by `seed`: the control.
    """
    check_choice("move_along", along, ("emotion", "random"))
    known = layer_bands(store.num_layers)
    names = split_names(bands) or [bands]
    for name in names:
        check_choice("move_bands", name, known)
    directions = expression_directions(store, seed if along == "random" else None, faces)
    return limit_to(directions, [layer for name in names for layer in known[name]])


def direction_response(
    predict: Predict,
    codes: Tensor,
    labels: np.ndarray,
    directions: Mapping[int, Tensor],
    strengths: Sequence[float] = STRENGTHS,
) -> pd.DataFrame:
    """How a classifier responds to faces that are moved to a class, those of the other classes.

    Args:
        predict: best a model that is independent of the codes: one that reads pictures of them.
        directions: (layers, dim) of some classes, by their indices.
        strengths: steps along a direction, ascending.

    Returns:
        One row per class: a column per strength, the mean probability of the class; and `rising`,
        the share of steps in which it rises: 1 for a monotonic response. NaN without faces of
        other classes.
    """
    rows = {}
    for label, direction in directions.items():
        others = codes[torch.from_numpy(labels) != label]
        probs = [predict(others + s * direction)[:, label] for s in strengths if len(others)]
        rising = np.diff(probs, axis=0) > 0 if len(probs) > 1 else np.empty(0)
        means = np.mean(probs, axis=1) if probs else [np.nan] * len(strengths)
        rows[label] = [*means, rising.mean() if rising.size else np.nan]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*strengths, "rising"])


@torch.inference_mode()
def change_elsewhere(
    encoder: nn.Module, decoder: nn.Module, codes: Tensor, directions: Mapping[int, Tensor]
) -> list[float]:
    """How much the layers change that a direction does not move: content of the person.

    The pictures of codes (n, layers, dim) and of moved codes are encoded again.

    Args:
        directions: (layers, dim) of some classes, all of which move the same layers.

    Returns:
        Per direction the mean distance, in mean distances of two of the faces: 0 for unchanged, 1
        for another person. NaN with a single face, or if a direction moves all layers.
    """
    dtype, device = encoder_dtype(encoder), decoder.mean_code.device

    def encode_again(codes: Tensor) -> Tensor:
        parts = codes.to(device).split(32)
        return torch.cat([encoder(decoder.decode(part).to(dtype)).float() for part in parts]).cpu()

    before = encode_again(codes)
    changes = []
    for direction in directions.values():
        fixed = ~direction.any(-1)
        change = (encode_again(codes + direction) - before)[:, fixed].norm(dim=(1, 2)).mean()
        changes.append(float(change / F.pdist(before[:, fixed].flatten(1)).mean()))
    return changes


def change_in_region(before: Tensor, after: Tensor, region: np.ndarray) -> float:
    """How much more images (n, 3, S, S) change in a region than elsewhere; 1: equally.

    Args:
        region: (S, S), from `expression_regions`; from 0.3 on it counts as inside.

    Returns:
        NaN if nothing is inside.
    """
    change = (after.float() - before.float()).abs().mean((0, 1))
    inside = torch.from_numpy(region > 0.3)
    return float(change[inside].mean() / change[~inside].mean())


def expression_regions(size: int, num_faces: int = 40) -> np.ndarray:
    """Where the action units of each emotion change a toy face, (7, size, size), at most 1.

    The mean change of brightness between the neutral face and that of an emotion, of the same
    persons in the same pose and light, as a share of the largest.
    """
    pictures = np.stack(
        [
            [
                np.asarray(toy_face(emotion, np.random.default_rng(n), size), float).mean(2)
                for n in range(num_faces)
            ]
            for emotion in EMOTIONS
        ]
    )
    change = np.abs(pictures - pictures[EMOTIONS.index("neutral")]).mean(1)
    return change / change.max((1, 2), keepdims=True).clip(1)
