"""What is left of the accuracy when the test is made harder, fairer, or kinder: always on the same faces."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fervit_lib.datasets import FaceDataset, audit_faces, majority, vote_shares, votes_on
from fervit_lib.evaluation.predict import Predictions, Predictor, predict_probs
from fervit_lib.evaluation.significance import bootstrap_interval
from fervit_lib.system.progress import progress

CROP = 0.9  # side of a crop over the side of the face


def _noise(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    added = 255 * strength * torch.randn(images.shape, generator=generator)
    return (images + added).round().clamp(0, 255).byte()


def _blur(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    sigma = (
        strength * images.shape[-1]
    )  # a share of the side: the same harm to small faces and large
    return F.gaussian_blur(images, [2 * int(3 * sigma) + 1] * 2, [sigma] * 2)


def _jpeg(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return torch.stack([F.jpeg(image, int(strength)) for image in images])


def _occlude(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A grey square of so many sides somewhere in each face."""
    side = images.shape[-1]
    width = round(strength * side)
    top, left = torch.randint(0, side - width + 1, (2, len(images)), generator=generator)
    place = torch.arange(side)
    down = (place >= top[:, None]) & (place < top[:, None] + width)
    across = (place >= left[:, None]) & (place < left[:, None] + width)
    return torch.where(
        (down[:, :, None] & across[:, None])[:, None], torch.tensor(128, dtype=torch.uint8), images
    )


def _rotate(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """By so many degrees to either side."""
    signs = (2 * torch.randint(0, 2, (len(images),), generator=generator) - 1).tolist()
    turned = [
        F.rotate(i, strength * s, InterpolationMode.BILINEAR)
        for i, s in zip(images, signs, strict=True)
    ]
    return torch.stack(turned)


# Common corruptions (after Hendrycks and Dietterich 2019, section 3) that a camera or a file brings, each at three
# strengths: standard deviation of the noise and blur as a share of the range and the side, brightness and contrast
# left, JPEG quality, side of the hidden square, degrees.
Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, float, float]]] = {
    "noise": (_noise, (0.05, 0.1, 0.2)),
    "blur": (_blur, (0.015, 0.03, 0.06)),
    "dark": (lambda images, s, _: F.adjust_brightness(images, s), (0.6, 0.4, 0.2)),
    "low contrast": (lambda images, s, _: F.adjust_contrast(images, s), (0.6, 0.4, 0.2)),
    "JPEG": (_jpeg, (40, 20, 8)),
    "occlusion": (_occlude, (0.2, 0.35, 0.5)),
    "rotation": (_rotate, (8, 16, 30)),
}


def _stack(pictures: Sequence[Image.Image]) -> Tensor:
    side = max(pictures[0].size)
    square = [
        p.convert("RGB") if p.size == (side, side) else p.convert("RGB").resize((side, side))
        for p in pictures
    ]
    return torch.from_numpy(np.stack([np.asarray(p) for p in square])).permute(0, 3, 1, 2)


def _unstack(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).contiguous().numpy()]


def corrupt(
    pictures: Sequence[Image.Image], name: str, level: int, seed: int = 0
) -> list[Image.Image]:
    """Pictures of one size with one of `CORRUPTIONS` at level 1, 2 or 3; the same seed gives the same harm."""
    if name not in CORRUPTIONS or level not in (1, 2, 3):
        raise ValueError(
            f"name, level: expected one of {', '.join(CORRUPTIONS)} and 1 to 3, got {name!r} and {level}"
        )
    change, strengths = CORRUPTIONS[name]
    generator = torch.Generator().manual_seed(seed)
    return _unstack(change(_stack(pictures), strengths[level - 1], generator))


def mirrored(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    return _unstack(_stack(pictures).flip(-1))


def ten_crops(pictures: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Corners and centre, and these mirrored, of 90% of the side: ten lists of pictures."""
    images = _stack(pictures)
    return [_unstack(crop) for crop in F.ten_crop(images, round(CROP * images.shape[-1]))]


def _read_all(
    predictors: Mapping[str, Predictor], pictures: Sequence[Image.Image]
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and probabilities of each predictor; pictures are encoded once for all that take codes."""
    prepared: dict[tuple[int, str] | None, Tensor] = {}
    for name, predictor in predictors.items():
        if predictor.input_format not in prepared:
            prepared[predictor.input_format] = predictor.inputs(pictures)
        yield (
            name,
            predict_probs(predictor.model, prepared[predictor.input_format], predictor.device),
        )


def evaluate_corruptions(
    predictors: Mapping[str, Predictor],
    pictures: Sequence[Image.Image],
    labels: np.ndarray,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of each run under each corruption: run, corruption, level (0: as they are), accuracy."""
    rows = [
        (name, "none", 0, (probs.argmax(1) == labels).mean())
        for name, probs in _read_all(predictors, pictures)
    ]
    harms = list(itertools.product(CORRUPTIONS, (1, 2, 3)))
    for corruption, level in progress(harms, desc="corrupt", unit=" ways"):
        for name, probs in _read_all(predictors, corrupt(pictures, corruption, level, seed)):
            rows.append((name, corruption, level, (probs.argmax(1) == labels).mean()))
    return pd.DataFrame(rows, columns=["run", "corruption", "level", "accuracy"])


def evaluate_tta(
    predictors: Mapping[str, Predictor], pictures: Sequence[Image.Image], labels: np.ndarray
) -> pd.DataFrame:
    """Test-time augmentation: run, and the accuracy plain, by flip (mean of two), by ten_crop (of ten; pixels only)."""
    plain, flipped = (
        dict(_read_all(predictors, pictures)),
        dict(_read_all(predictors, mirrored(pictures))),
    )
    over_pixels = {
        name: predictor for name, predictor in predictors.items() if predictor.encoder is None
    }
    crops: dict[str, np.ndarray] = {}
    for crop in (
        progress(ten_crops(pictures), desc="ten crops", unit=" crops") if over_pixels else []
    ):
        for name, probs in _read_all(over_pixels, crop):
            crops[name] = crops.get(name, 0) + probs / 10
    rows = []
    for name in predictors:
        ways = {
            "plain": plain[name],
            "flip": (plain[name] + flipped[name]) / 2,
            "ten_crop": crops.get(name),
        }
        rows.append({"run": name} | {way: _accuracy(probs, labels) for way, probs in ways.items()})
    return pd.DataFrame(rows)


def _accuracy(probs: np.ndarray | None, labels: np.ndarray) -> float:
    return float("nan") if probs is None else float((probs.argmax(1) == labels).mean())


def seen_in_training(faces: Mapping[str, FaceDataset]) -> np.ndarray:
    """(N,) bool: which test faces also occur, exactly or nearly, in train or val.

    Args:
        faces: train, val and test.
    """
    found = audit_faces(dict(faces)).cross_split
    seen = np.zeros(len(faces["test"]), dtype=bool)
    seen[found.loc[found["split"] == "test", "index"].to_numpy(int)] = True
    return seen


def accuracy_on_subset(correct: Mapping[str, np.ndarray], part: np.ndarray) -> pd.DataFrame:
    """Accuracy on all faces and on a part of them (N,) bool: run, all, part, low and high (95%), faces of the part."""
    rows = []
    for name, right in correct.items():
        row: dict[str, Any] = {
            "run": name,
            "all": right.mean(),
            "part": np.nan,
            "low": np.nan,
            "high": np.nan,
        }
        if part.any():
            low, high = bootstrap_interval(right[part])
            row |= {"part": right[part].mean(), "low": low, "high": high}
        rows.append(row | {"faces": int(part.sum())})
    return pd.DataFrame(rows)


def fer_plus_agreement(source: Path, found: Mapping[str, Predictions]) -> pd.DataFrame:
    """How far runs agree with FER+'s votes: run, hard (the set's own labels), majority, shared, faces.

    Only test faces count on which more than half of the voters agree (`faces`). `hard` and `majority` are the shares
    read as the set and as the voters say; `shared` is the mean share of votes for what was read.

    Args:
        source: the set of faces, with `fer2013new.csv` beside it.
        found: predictions of the test faces by run.
    """
    rows = []
    for name, test in found.items():
        votes = votes_on(source, test.paths)
        truth, shares = majority(votes, test.classes), vote_shares(votes, test.classes)
        clear = truth >= 0
        of_read = shares[np.arange(len(truth)), test.predicted][clear].mean()
        read_as_voted = (test.predicted == truth)[clear].mean()
        rows.append((name, test.correct[clear].mean(), read_as_voted, of_read, int(clear.sum())))
    return pd.DataFrame(rows, columns=["run", "hard", "majority", "shared", "faces"])
