"""A light student that learns from a large teacher and a detector's features, and what each of them buys."""

from fervit_lib.distillation.cache import BoundedCache, content_key
from fervit_lib.distillation.compare import (
    ARMS,
    clear_arms,
    count_runs,
    fit_arm,
    interval_table,
    make_arms,
    shown_batch,
)
from fervit_lib.distillation.data import Augment, people_dls
from fervit_lib.distillation.expression import ExpressionLoss, TokenViT, build_expression_learner
from fervit_lib.distillation.features import OnnxFeatures
from fervit_lib.distillation.learner import Targets, build_distiller, fit_distiller
from fervit_lib.distillation.losses import DistillLoss, LossWeights, binary_kl, temperature_at
from fervit_lib.distillation.metrics import scores_from
from fervit_lib.distillation.pictures import mask_sheet
from fervit_lib.distillation.student import TappedStudent, feature_gradient, frozen_groups, with_projector
from fervit_lib.distillation.toy import TOY_TENSOR, make_toy_detector, make_toy_teacher

__all__ = [
    "ARMS",
    "TOY_TENSOR",
    "Augment",
    "BoundedCache",
    "DistillLoss",
    "ExpressionLoss",
    "LossWeights",
    "OnnxFeatures",
    "TappedStudent",
    "Targets",
    "TokenViT",
    "binary_kl",
    "build_distiller",
    "build_expression_learner",
    "clear_arms",
    "content_key",
    "count_runs",
    "feature_gradient",
    "fit_arm",
    "fit_distiller",
    "frozen_groups",
    "interval_table",
    "make_arms",
    "make_toy_detector",
    "make_toy_teacher",
    "mask_sheet",
    "people_dls",
    "scores_from",
    "shown_batch",
    "temperature_at",
    "with_projector",
]
