"""Why a trained model says what it says: attention, and the tests that show how far to believe it."""

from fervit_lib.explain.attention import (
    AttentionSummary,
    attention_maps,
    attention_rollout,
    gradient_maps,
    gradient_rollout,
    patch_map,
    summarise_attention,
)
from fervit_lib.explain.heads import HeadStatistics, head_importance, head_statistics, pruning_curve
from fervit_lib.explain.importance import (
    band_of,
    deletion_curve,
    leave_one_out,
    permutation_importance,
    random_curves,
    replace_layers,
    swap_effect,
    swap_layers,
)
from fervit_lib.explain.probes import few_shot, pooled_features, principal_points, probe_layers
from fervit_lib.explain.similarity import (
    cka_matrix,
    cls_similarity,
    feature_layers,
    layer_features,
    linear_cka,
    rbf_cka,
    sinusoidal_positions,
    token_similarity,
)

__all__ = [
    "AttentionSummary",
    "HeadStatistics",
    "attention_maps",
    "attention_rollout",
    "band_of",
    "cka_matrix",
    "cls_similarity",
    "deletion_curve",
    "feature_layers",
    "few_shot",
    "gradient_maps",
    "gradient_rollout",
    "head_importance",
    "head_statistics",
    "layer_features",
    "leave_one_out",
    "linear_cka",
    "patch_map",
    "permutation_importance",
    "pooled_features",
    "principal_points",
    "probe_layers",
    "pruning_curve",
    "random_curves",
    "rbf_cka",
    "replace_layers",
    "sinusoidal_positions",
    "summarise_attention",
    "swap_effect",
    "swap_layers",
    "token_similarity",
]
