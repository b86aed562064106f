"""Figures of the attention explorer."""

from fervit_lib.figures.explain.attention import overlay_map, plot_attention
from fervit_lib.figures.explain.blocks import (
    plot_cka,
    plot_features_by_block,
    plot_head_similarity,
    plot_heads,
    plot_position_values,
    plot_positions,
    plot_probes,
)
from fervit_lib.figures.explain.layers import (
    plot_layer_scores,
    plot_removal_curves,
    plot_responses,
    plot_swaps,
)
from fervit_lib.figures.png import write_attention_png
