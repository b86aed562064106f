"""Figures of the attention explorer: data in, plotly figure out, in the look of `figures`."""

from fervit_lib.figures.explain.agreement import plot_cka, plot_depths, plot_probes
from fervit_lib.figures.explain.attention import overlay_map, plot_attention
from fervit_lib.figures.explain.controls import LAYERS, SEQUENTIAL, shade_bands
from fervit_lib.figures.explain.heads import plot_head_similarity, plot_heads, plot_pruning
from fervit_lib.figures.explain.layers import (
    plot_layer_scores,
    plot_layers_off,
    plot_positions,
    plot_removal_curves,
    plot_swaps,
)
