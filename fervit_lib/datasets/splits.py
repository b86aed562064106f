"""Train, val and test: their names, and how val is cut from train or moved to it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fervit_lib.datasets.face_dataset import FaceDataset, stratified_mask
from fervit_lib.system.names import check_range

SPLITS = ("train", "val", "test")
PRIVATE_TEST = "private_test"  # only in Kaggle's tables; no loop over SPLITS touches it
_VAL_FRACTION = 1 / 8
_VAL_SEED = 2013  # fixed: a validation image must never become a training image in another run


def val_mask(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: the stratified eighth of training faces that is val if a set has no val split."""
    return stratified_mask(labels, _VAL_FRACTION, _VAL_SEED)


def part_of_train(faces: FaceDataset, split: str) -> FaceDataset:
    """The train or the val part of all training `faces`; other splits are returned unchanged.

    Raises:
        ValueError: a class has fewer than 2 faces.
    """
    if split not in ("train", "val"):
        return faces
    counts = np.bincount(faces.labels, minlength=len(faces.classes))
    if counts.min() < 2:
        raise ValueError(
            f"{faces.source}: class {faces.classes[counts.argmin()]!r} has {counts.min()} training "
            f"image, expected at least 2, since the set has no val split and a part of train "
            f"becomes one; add images or a val folder"
        )
    in_val = val_mask(faces.labels)
    if split == "train":
        return faces.subset(~in_val)
    return replace(faces.subset(in_val), skipped=())  # they are listed once, with train


def move_to_train(
    sets: Mapping[str, FaceDataset], share: float, seed: int
) -> dict[str, FaceDataset]:
    """Move a stratified `share` of val's faces, in [0, 1), to train; val keeps the others.

    Raises:
        ValueError: `share` is out of range, or so large that val would lose a class.
    """
    check_range("val_to_train", share, 0, 1)
    if not share:
        return dict(sets)
    val = sets["val"]
    moved = stratified_mask(val.labels, share, seed)
    if lost := set(val.labels) - set(val.labels[~moved]):
        raise ValueError(
            f"val_to_train: {share} leaves no face of {val.classes[min(lost)]} in val, which "
            f"chooses the best epoch; take a smaller share"
        )
    train = sets["train"].joined(val.subset(moved))
    return {**sets, "train": train, "val": val.subset(~moved)}
