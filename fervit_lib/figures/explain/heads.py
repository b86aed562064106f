"""Attention heads: what characterises them, and which of them are needed."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from fervit_lib.figures.theme import (
    GREY,
    PALETTE,
    PERCENT,
    draw_as_matrix,
    error_bars,
    escape_label,
    largest_error,
    new_figure,
    new_panels,
)


def plot_heads(values: Mapping[str, np.ndarray], caption: str = "") -> go.Figure:
    """One heat map per score, each (depth, num_heads), with its own colour scale."""
    depth, num_heads = next(iter(values.values())).shape
    figure = new_panels(
        "What characterises each attention head",
        escape_label(caption),
        200 + 34 * max(depth, 3),
        margin_t=110,
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


def plot_pruning(by_importance: np.ndarray, at_random: np.ndarray, num_faces: int) -> go.Figure:
    """Accuracy by the number of removed heads.

    Args:
        by_importance: (heads + 1,) the least important head removed first.
        at_random: (repeats, heads + 1) heads removed in random order.
        num_faces: number of faces on which the accuracy was measured.
    """
    at_random = np.asarray(at_random)
    mean = at_random.mean(0)
    figure = new_figure(
        "Accuracy as heads are removed",
        f"n = {num_faces:,} faces, {largest_error(num_faces)}; "
        f"random: mean and range of {len(at_random)} orders",
        xaxis={"title": "heads removed", "dtick": len(by_importance) // 12 + 1},
        yaxis={"title": "accuracy", "tickformat": PERCENT, "rangemode": "tozero"},
    )
    removed = np.arange(len(by_importance))
    figure.add_scatter(
        x=removed,
        y=by_importance,
        name="least important first",
        mode="lines+markers",
        line_color=PALETTE[0],
    )
    figure.add_scatter(
        x=removed,
        y=mean,
        error_y=error_bars(mean, at_random.min(0), at_random.max(0)),
        name="random order",
        mode="lines",
        line={"color": GREY, "dash": "dash"},
    )
    return figure
