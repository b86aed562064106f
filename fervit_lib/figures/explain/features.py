"""Features by block: accuracy of linear probes, and their first two components."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.codes import add_class_points
from fervit_lib.figures.controls import add_slider
from fervit_lib.figures.theme import (
    PERCENT,
    error_bars,
    escape_label,
    new_figure,
)


def plot_probes(scores: pd.DataFrame, caption: str) -> go.Figure:
    """Accuracy of few-shot linear probes by block, one line per run.

    Args:
        scores: columns run, layer, accuracy, and lowest, highest over the draws of training faces.
    """
    figure = new_figure(
        "Few-shot linear probes by block",
        caption,
        height=500,
        xaxis_title="features after",
        yaxis={"title": "accuracy", "tickformat": PERCENT, "rangemode": "tozero"},
    )
    for run, group in scores.groupby("run", sort=False):
        figure.add_scatter(
            x=group["layer"],
            y=group["accuracy"],
            error_y=error_bars(group["accuracy"], group["lowest"], group["highest"]),
            mode="lines+markers",
            name=escape_label(run),
            hovertemplate="%{x}: %{y:.1%}",
        )
    return figure


def plot_features_by_block(
    points: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str], title: str
) -> go.Figure:
    """Features in two dimensions, coloured by class, with a slider over the blocks.

    Args:
        points: by block, (N, 2).
        labels: (N,) class indices.
    """
    subtitle = f"n = {len(labels):,} points; principal components, computed for each block"
    figure = new_figure(title, subtitle, 600)
    add_class_points(figure, next(iter(points.values())), labels, classes)
    updates = []
    for block in points.values():
        by_class = [block[labels == number].round(3) for number in range(len(classes))]
        updates.append([{"x": [xy[:, 0] for xy in by_class], "y": [xy[:, 1] for xy in by_class]}])
    add_slider(figure, "after", points, updates, len=0.94, x=0.03)
    # Fixed for all blocks: axes that rescale with the slider would hide that clusters spread.
    limit = 1.05 * max(np.abs(block).max() for block in points.values())
    figure.update_xaxes(range=[-limit, limit])
    figure.update_yaxes(range=[-limit, limit])
    return figure
