"""What the blocks and heads of models compute: probes, components, scores of heads, similarity."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.codes import add_class_points
from fervit_lib.figures.controls import add_run_menu, add_slider
from fervit_lib.figures.theme import (
    DIVERGING,
    PERCENT,
    draw_as_matrix,
    error_bars,
    escape_label,
    new_figure,
    new_panels,
    wrap_labels,
)

_COSINE = "cosine: 1 same direction, 0 orthogonal, −1 opposite"


def plot_probes(scores: pd.DataFrame, caption: str) -> go.Figure:
    """Accuracy of few-shot linear probes by depth, one line per run.

    Args:
        scores: columns run, layer, accuracy, and lowest, highest over the draws of training faces.
    """
    figure = new_figure(
        "Few-shot linear probes by depth",
        caption,
        height=500,
        xaxis={"title": "depth (share of the layers)", "tickformat": PERCENT, "range": [0, 1.03]},
        yaxis={"title": "accuracy", "tickformat": PERCENT, "rangemode": "tozero"},
    )
    for run, group in scores.groupby("run", sort=False):
        figure.add_scatter(
            x=np.arange(1, len(group) + 1) / len(group),
            y=group["accuracy"],
            text=group["layer"],
            error_y=error_bars(group["accuracy"], group["lowest"], group["highest"]),
            mode="lines+markers",
            name=escape_label(run),
            hovertemplate="%{text}: %{y:.1%}",
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


def plot_cka(
    pairs: Mapping[str, tuple[np.ndarray, Sequence[str], Sequence[str]]], num_faces: int
) -> go.Figure:
    """Centred kernel alignment of the layers of two models, with a menu of pairs.

    Args:
        pairs: by pair ("rows × columns"): matrix, names of its rows, names of its columns.
        num_faces: number of faces on which the layers are compared.
    """
    figure = new_figure("Similarity of layers of two models (CKA)", height=600, margin_t=128)
    subtitles = {}
    for pair, (matrix, rows, columns) in pairs.items():
        figure.add_heatmap(
            z=np.round(matrix, 3),
            x=list(columns),
            y=list(rows),
            zmin=0,
            zmax=1,
            colorbar_title="CKA",
            hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
        )
        models = escape_label(pair)
        subtitles[pair] = (
            f"{models} (rows × columns); n = {num_faces:,} faces; 1: equal up to rotation and scale"
        )
    draw_as_matrix(figure)
    figure.update_yaxes(autorange=True)  # the first block at the bottom, as papers show CKA
    add_run_menu(figure, subtitles, 1)
    return figure


def plot_head_similarity(similarity: Mapping[str, np.ndarray], num_faces: int) -> go.Figure:
    """Cosine similarity of the heads of a block, one panel per kind, with a slider over blocks.

    Args:
        similarity: by kind, (depth, num_heads, num_heads).
    """
    by_block = [
        {kind: np.round(heads, 4) for kind, heads in zip(similarity, block, strict=True)}
        for block in zip(*similarity.values(), strict=True)
    ]
    caption = f"{_COSINE}; mean of n = {num_faces:,} faces"
    figure = _plot_signed("Similarity of attention heads", caption, by_block[0], "head", 1)
    updates = [[{"z": list(panels.values())}] for panels in by_block]
    add_slider(figure, "block", [str(block) for block in range(1, len(updates) + 1)], updates)
    return figure


def plot_positions(similarity: Mapping[str, np.ndarray]) -> go.Figure:
    """Cosine similarity of position embeddings, one panel per kind, each (layers, layers)."""
    panels = {kind: np.round(values, 3) for kind, values in similarity.items()}
    return _plot_signed("Similarity of position embeddings", _COSINE, panels, "layer of w+")


def plot_position_values(embeddings: Mapping[str, np.ndarray]) -> go.Figure:
    """Position embeddings as they are, one panel per kind, each (layers, embed_dim)."""
    panels = {kind: np.round(e / np.abs(e).max(), 3) for kind, e in embeddings.items()}
    caption = "values, divided by the largest of their panel"
    figure = _plot_signed("Position embeddings", caption, panels, "layer of w+")
    figure.update_traces(xgap=0)
    return figure.update_xaxes(title="dimension", nticks=4)


def _plot_signed(
    title: str, caption: str, panels: Mapping[str, np.ndarray], axis: str, first: int = 0
) -> go.Figure:
    """Heat maps of values in [-1, 1], side by side; rows and columns are numbered from `first`."""
    titles = wrap_labels(panels, 22)
    figure = new_panels(
        title,
        caption,
        470,
        margin_t=90 + 16 * max(title.count("<br>") + 1 for title in titles),
        cols=len(panels),
        subplot_titles=titles,
        horizontal_spacing=0.08,
    )
    for column, values in enumerate(panels.values(), 1):
        rows, columns = (np.arange(first, first + size) for size in values.shape)
        figure.add_heatmap(
            z=values,
            x=columns,
            y=rows,
            zmin=-1,
            zmax=1,
            colorscale=DIVERGING,
            showscale=column == len(panels),
            hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
            row=1,
            col=column,
        )
    draw_as_matrix(figure)
    figure.update_xaxes(title=axis)
    figure.update_yaxes(title=axis, col=1)
    return figure
