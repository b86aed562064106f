"""Training: strategies as data, and one fastai Learner for all models."""

import warnings

with warnings.catch_warnings(action="ignore", category=FutureWarning):
    import fastai.learner  # noqa: F401  (its import calls torch.jit, which torch has deprecated)

from fervit_lib.training.augment import AugmentCodes, AugmentImages, GrowImages, preview_batch
from fervit_lib.training.callbacks import FitBar, SaveBest, Steps
from fervit_lib.training.data import face_dls
from fervit_lib.training.head_losses import head_penalties
from fervit_lib.training.learner import LossConfig, OptimConfig, build_learner, fit
from fervit_lib.training.pretrain import fit_masked
from fervit_lib.training.strategies import (
    STRATEGIES,
    ParameterGroup,
    get_strategy,
    model_table,
    parameter_groups,
    single_group,
)
from fervit_lib.training.teacher import TeacherConfig, TeacherLoss, load_teacher, teacher_accuracy
from fervit_lib.training.tracking import trackers
