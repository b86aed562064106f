"""What characterises attention heads."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from fervit_lib.figures.theme import draw_as_matrix, escape_label, new_panels


def plot_heads(values: Mapping[str, np.ndarray], caption: str = "") -> go.Figure:
    """One heat map per score, each (depth, num_heads), with its own colour scale."""
    depth, num_heads = next(iter(values.values())).shape
    figure = new_panels(
        "What characterises each attention head",
        escape_label(caption),
        200 + 34 * max(depth, 3),
        cols=len(values),
        subplot_titles=list(values),
        horizontal_spacing=0.14,
    )
    for column, (name, score) in enumerate(values.items(), 1):
        panel = next(figure.select_xaxes(col=column))
        figure.add_heatmap(
            z=score,
            x=[str(head + 1) for head in range(num_heads)],
            y=[str(block + 1) for block in range(depth)],
            colorbar={
                "x": panel.domain[1] + 0.005,  # right of its own panel
                "tickformat": ".4~g",
            },
            hovertemplate=f"block %{{y}}, head %{{x}}: %{{z:.3f}}<extra>{name}</extra>",
            row=1,
            col=column,
        )
    draw_as_matrix(figure)
    figure.update_xaxes(title="head")
    figure.update_yaxes(title="block", col=1)
    return figure
