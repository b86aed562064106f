"""Why a trained model says what it says: attention, and the tests that show how far to believe it."""

from fervit_lib.explain.attention import (
    AttentionSummary,
    attention_maps,
    attention_rollout,
    gradient_maps,
    gradient_rollout,
    image_maps,
    patch_map,
    summarise_attention,
)
from fervit_lib.explain.examined_run import (
    Subject,
    before_training,
    choose_runs,
    companion_runs,
    find_decoder,
    load_subject,
)
from fervit_lib.explain.heads import HeadStatistics, head_importance, head_statistics, pruning_curve
from fervit_lib.explain.importance import (
    band_of,
    band_shares,
    deletion_curve,
    layers_off,
    leave_one_out,
    permutation_importance,
    random_curves,
    rank_agreement,
    replace_layers,
    swap_effect,
    swap_layers,
)
from fervit_lib.explain.methods import METHODS, look, method_scores
from fervit_lib.explain.probes import pooled_features, principal_points, probe_layers
from fervit_lib.explain.similarity import (
    cka_matrix,
    cls_similarity,
    feature_layers,
    layer_features,
    linear_cka,
    placed,
    rbf_cka,
    token_similarity,
)
