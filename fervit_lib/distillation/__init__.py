"""Distillation of a small student from a large teacher and a detector's features."""

from fervit_lib.distillation.cache import BoundedCache
from fervit_lib.distillation.compare import (
    build_ablations,
    choose_student,
    evaluate_students,
    example_batch,
    fit_student,
    interval_table,
    load_curves,
    summary,
    teacher_iou,
)
from fervit_lib.distillation.data import Augment, people_dls
from fervit_lib.distillation.features import OnnxFeatures
from fervit_lib.distillation.learner import Targets, build_distiller
from fervit_lib.distillation.losses import (
    DistillLoss,
    FeatureTerm,
    LossWeights,
    binary_kl,
    temperature_at,
)
from fervit_lib.distillation.mask_grid import draw_mask_grid
from fervit_lib.distillation.student import (
    TappedStudent,
    build_tapped_student,
    check_encoder,
    feature_gradient_norm,
)
from fervit_lib.distillation.toy import TOY_TENSOR, train_toy_detector, train_toy_teacher
