"""Fitting: strategies as data, one fastai Learner for all."""

import warnings

with warnings.catch_warnings(action="ignore", category=FutureWarning):
    import fastai.learner  # noqa: F401  (its import calls torch.jit, which torch has deprecated)

from fervit_lib.training.autoencoder import fit_autoencoder
from fervit_lib.training.callbacks import SaveBest
from fervit_lib.training.data import latent_dls
from fervit_lib.training.learner import build_learner
from fervit_lib.training.strategies import STRATEGIES, Strategy, get_strategy, parameter_groups, parameter_table

__all__ = [
    "STRATEGIES",
    "SaveBest",
    "Strategy",
    "build_learner",
    "fit_autoencoder",
    "get_strategy",
    "latent_dls",
    "parameter_groups",
    "parameter_table",
]
