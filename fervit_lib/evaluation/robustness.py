"""Accuracy under corruptions, with test-time augmentation, on unseen faces, and against votes."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F
from xxhash import xxh3_64_intdigest

from fervit_lib.datasets import FaceDataset, audit_faces, load_votes, majority_labels, soft_labels
from fervit_lib.evaluation.predict import Predictions, Predictor, predict_probs
from fervit_lib.evaluation.significance import bootstrap_interval
from fervit_lib.inputs import images_to_pixels
from fervit_lib.system.names import check_choice, check_range
from fervit_lib.system.progress import progress

CROP = 0.9  # side of a crop as a share of the image's side
LEVELS = (1, 2, 3)

# All corruptions below take an image (3, S, S) uint8.


def _noise(image: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise; `std` is a share of the range of values."""
    noise = 255 * std * torch.randn(image.shape, generator=generator)
    return (image + noise).round().clamp(0, 255).byte()


def _blur(image: Tensor, share: float, _: torch.Generator) -> Tensor:
    """Gaussian blur; sigma is a share of the side, so that images of any size are blurred alike."""
    sigma = share * image.shape[-1]
    return F.gaussian_blur(image, [2 * int(3 * sigma) + 1] * 2, [sigma] * 2)


def _occlude(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A grey square at a random position; its side is a share of the image's."""
    side = image.shape[-1]
    width = round(share * side)
    top, left = torch.randint(0, side - width + 1, (2,), generator=generator).tolist()
    return F.erase(image, top, left, width, width, torch.tensor(128))


def _rotate(image: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Rotation to the left or right, at random."""
    sign = 2 * int(torch.randint(0, 2, (1,), generator=generator)) - 1
    return F.rotate(image, degrees * sign, InterpolationMode.BILINEAR)


# Common corruptions of cameras and files (after Hendrycks and Dietterich 2019, section 3), each
# with the parameter of its function at levels 1, 2 and 3.
CORRUPTIONS = {
    "noise": (_noise, (0.05, 0.1, 0.2)),
    "blur": (_blur, (0.015, 0.03, 0.06)),
    "dark": (lambda image, factor, _: F.adjust_brightness(image, factor), (0.6, 0.4, 0.2)),
    "low contrast": (lambda image, factor, _: F.adjust_contrast(image, factor), (0.6, 0.4, 0.2)),
    "JPEG": (lambda image, quality, _: F.jpeg(image, int(quality)), (40, 20, 8)),
    "occlusion": (_occlude, (0.2, 0.35, 0.5)),
    "rotation": (_rotate, (8, 16, 30)),
}


def _to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Images → (N, 3, S, S) uint8; S is the longest side of all images."""
    return images_to_pixels(images, max(max(image.size) for image in images), "squish")


def corrupt(
    images: Sequence[Image.Image], name: str, level: int, seed: int = 0
) -> list[Image.Image]:
    """Images of one size with one of `CORRUPTIONS` at level 1, 2 or 3, reproducible by `seed`.

    Noise, places and directions are drawn from the content of each image, not from its position.
    """
    check_choice("name", name, CORRUPTIONS)
    check_range("level", level, 1, 4)
    function, strengths = CORRUPTIONS[name]
    corrupted = []
    for image in _to_tensor(images):
        content = xxh3_64_intdigest(image.contiguous().numpy(), seed)
        generator = torch.Generator().manual_seed(content >> 1)
        corrupted.append(F.to_pil_image(function(image, strengths[level - 1], generator)))
    return corrupted


def ten_crops(images: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Crops of 90% of the side at the corners and the centre, and their mirror images: 10 lists."""
    tensor = _to_tensor(images)
    crops = F.ten_crop(tensor, round(CROP * tensor.shape[-1]))  # 10 of (N, 3, s, s)
    return [[F.to_pil_image(image) for image in crop] for crop in crops]


def _predict_all(
    predictors: Mapping[str, Predictor], images: Sequence[Image.Image]
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and probabilities of each predictor; those that read the same share the inputs."""
    inputs = {}
    for name, predictor in predictors.items():
        # Once per encoder, or format: with pSp, encoding is almost all of the work.
        model = predictor.model
        key = predictor.encoder or (model.image_size, model.resize_method)
        if key not in inputs:
            inputs[key] = predictor.inputs(images)
        yield name, predict_probs(model, inputs[key], predictor.device)


def _accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    return float((probs.argmax(1) == labels).mean())


def evaluate_corruptions(
    predictors: Mapping[str, Predictor],
    images: Sequence[Image.Image],
    labels: np.ndarray,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of each run under each corruption: run, corruption, level, accuracy.

    Corruption `none` has level 0.
    """
    rows = []
    settings = [("none", 0), *itertools.product(CORRUPTIONS, LEVELS)]
    for corruption, level in progress(settings, desc="corrupt", unit=" settings"):
        corrupted = corrupt(images, corruption, level, seed) if level else images
        for run, probs in _predict_all(predictors, corrupted):
            rows.append((run, corruption, level, _accuracy(probs, labels)))
    return pd.DataFrame(rows, columns=["run", "corruption", "level", "accuracy"])


def evaluate_tta(
    predictors: Mapping[str, Predictor], images: Sequence[Image.Image], labels: np.ndarray
) -> pd.DataFrame:
    """Accuracy with test-time augmentation: run, plain, flip, ten_crop.

    Probabilities are averaged: `flip` of an image and its mirror image, `ten_crop` of ten crops.
    `ten_crop` is for models that take images only: codes of cropped faces are off-domain.
    """
    plain = dict(_predict_all(predictors, images))
    mirrored = dict(_predict_all(predictors, [ImageOps.mirror(image) for image in images]))
    image_models = {name: p for name, p in predictors.items() if p.encoder is None}
    crops = progress(ten_crops(images), desc="ten crops", unit=" crops")
    of_crops = [dict(_predict_all(image_models, crop)) for crop in crops]
    rows = []
    for name in predictors:
        # Sums have the same largest class as means.
        row = {"plain": plain[name], "flip": plain[name] + mirrored[name]}
        if name in image_models:
            row["ten_crop"] = np.sum([probs[name] for probs in of_crops], axis=0)
        scores = {way: _accuracy(probs, labels) for way, probs in row.items()}
        rows.append({"run": name} | scores)
    return pd.DataFrame(rows, columns=["run", "plain", "flip", "ten_crop"])


def seen_in_training(faces: Mapping[str, FaceDataset]) -> np.ndarray:
    """(N,) bool: which test faces also occur, as exact or near duplicates, in train or val.

    Args:
        faces: by split: train, val and test.
    """
    duplicates = audit_faces(dict(faces)).groups_with_several("split")
    seen = duplicates.loc[duplicates["split"] == "test", "index"]
    return np.isin(np.arange(len(faces["test"])), seen.to_numpy(int))


def accuracy_on_subset(correct: Mapping[str, np.ndarray], subset: np.ndarray) -> pd.DataFrame:
    """Accuracy on all faces and on a subset: run, all, part, low, high (95% CI of part), faces.

    Args:
        correct: by run, (N,) bool.
        subset: (N,) bool; if no face belongs to it, part, low and high are NaN.
    """
    rows = []
    for run, is_correct in correct.items():
        row = {"run": run, "all": is_correct.mean(), "faces": int(subset.sum())}
        if subset.any():
            row["part"] = is_correct[subset].mean()
            row["low"], row["high"] = bootstrap_interval(is_correct[subset])
        rows.append(row)
    return pd.DataFrame(rows, columns=["run", "all", "part", "low", "high", "faces"])


def fer_plus_agreement(source: Path, predictions: Mapping[str, Predictions]) -> pd.DataFrame:
    """Agreement of runs with the votes of FER+: run, hard, majority, shared, faces.

    Only test faces on which more than half of the voters agree count (`faces`). `hard` and
    `majority` are the accuracies with the set's own labels and with the voters' majority,
    `shared` is the mean share of votes for the predicted class.

    Args:
        source: the set of faces, with `fer2013new.csv` beside it.
        predictions: of the test faces, by run.
    """
    rows = []
    for run, test in predictions.items():
        votes = load_votes(source, test.paths)
        voted = majority_labels(votes, test.classes)
        shares = soft_labels(votes, test.classes)[np.arange(len(voted)), test.predicted]
        clear = voted >= 0
        hard = test.correct[clear].mean()
        agrees = (test.predicted == voted)[clear].mean()
        rows.append((run, hard, agrees, shares[clear].mean(), int(clear.sum())))
    return pd.DataFrame(rows, columns=["run", "hard", "majority", "shared", "faces"])
