"""A light student that learns from a large teacher and a detector's features, and what each of them buys."""

from fervit_lib.distillation.cache import BoundedCache, content_key
from fervit_lib.distillation.compare import (
    ARMS,
    count_runs,
    fit_arm,
    interval_table,
    make_arms,
    read_curves,
    shown_batch,
    summary,
)
from fervit_lib.distillation.data import Augment, people_dls
from fervit_lib.distillation.expression import (
    KINDS,
    ExpressionLoss,
    TokenViT,
    accuracy_table,
    build_expression_learner,
    correct_predictions,
    expression_dls,
    fit_expression,
    load_or_teach,
)
from fervit_lib.distillation.features import OnnxFeatures
from fervit_lib.distillation.learner import Targets, build_distiller, fit_distiller
from fervit_lib.distillation.losses import DistillLoss, LossWeights, binary_kl, temperature_at
from fervit_lib.distillation.mask_grid import mask_sheet
from fervit_lib.distillation.metrics import scores_from
from fervit_lib.distillation.student import (
    TappedStudent,
    feature_gradient,
    frozen_groups,
    with_projector,
)
from fervit_lib.distillation.toy import TOY_TENSOR, make_toy_detector, make_toy_teacher
