"""Fitting: strategies as data, one fastai Learner for all."""

import warnings

with warnings.catch_warnings(action="ignore", category=FutureWarning):
    import fastai.learner  # noqa: F401  (its import calls torch.jit, which torch has deprecated)

from fervit_lib.training.augment import AugmentCodes, AugmentImages, GrowImages
from fervit_lib.training.autoencoder import fit_autoencoder
from fervit_lib.training.callbacks import SaveBest
from fervit_lib.training.data import face_dls, faces_of, images_to_pixels, inputs_for, is_image
from fervit_lib.training.learner import build_learner, fit
from fervit_lib.training.pretrain import fit_masked, reconstruct
from fervit_lib.training.strategies import (
    STRATEGIES,
    Strategy,
    check_start,
    get_strategy,
    parameter_groups,
    parameter_table,
)
from fervit_lib.training.tracking import trackers

__all__ = [
    "STRATEGIES",
    "AugmentCodes",
    "AugmentImages",
    "GrowImages",
    "SaveBest",
    "Strategy",
    "build_learner",
    "check_start",
    "face_dls",
    "faces_of",
    "fit",
    "fit_autoencoder",
    "fit_masked",
    "get_strategy",
    "images_to_pixels",
    "inputs_for",
    "is_image",
    "parameter_groups",
    "parameter_table",
    "reconstruct",
    "trackers",
]
