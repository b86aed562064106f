"""Why a model predicts what it predicts: attention, and tests of how far to trust it."""

from fervit_lib.explain.attention import (
    attention_maps,
    attention_rollout,
    gradient_maps,
    gradient_rollout,
    reads_cls,
    summarise_attention,
)
from fervit_lib.explain.directions import (
    STRENGTHS,
    change_elsewhere,
    change_in_region,
    direction_response,
    expression_directions,
    expression_regions,
    limit_to,
    training_directions,
)
from fervit_lib.explain.examined_run import (
    ExaminedRun,
    choose_runs,
    companion_runs,
    load_examined_run,
    load_initial_model,
)
from fervit_lib.explain.flips import face_distance, smallest_flips
from fervit_lib.explain.heads import head_importance, head_statistics, pruning_curve
from fervit_lib.explain.importance import (
    band_of,
    band_shares,
    deletion_curve,
    leave_one_out,
    permutation_importance,
    random_curves,
    rank_agreement,
    swap_effect,
    swap_layers,
)
from fervit_lib.explain.methods import METHODS, image_maps, method_scores, token_map
from fervit_lib.explain.probes import pca_points, pooled_features, probe_layers
from fervit_lib.explain.similarity import (
    cka_matrix,
    feature_layers,
    layer_features,
    layer_position_embeddings,
    linear_cka,
    token_similarity,
)
from fervit_lib.explain.textures import shape_and_texture
