"""Similarity of models, heads and position embeddings."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from fervit_lib.figures.codes import LAYERS
from fervit_lib.figures.controls import add_menu, add_slider
from fervit_lib.figures.theme import DIVERGING, draw_as_matrix, escape_labels, new_panels

_KERNELS = {"linear": "linear", "rbf": "Gaussian"}


def plot_cka(
    pairs: Mapping[str, Mapping[str, tuple[np.ndarray, Sequence[str], Sequence[str]]]],
) -> go.Figure:
    """Centred kernel alignment of the layers of two models: a panel per kernel, a menu of pairs.

    Args:
        pairs: by pair ("rows × columns") and kernel: matrix, names of its rows, names of its
            columns.
    """
    kernels = list(next(iter(pairs.values())))
    figure = new_panels(
        "CKA between the layers of two models",
        "1: equal up to rotation and scale",
        520,
        margin_t=130,
        cols=len(kernels),
        subplot_titles=[_KERNELS.get(kernel, kernel) for kernel in kernels],
    )
    updates: list[list[dict]] = []
    for number, (pair, by_kernel) in enumerate(pairs.items()):
        for column, kernel in enumerate(kernels, 1):
            matrix, rows, columns = by_kernel[kernel]
            figure.add_heatmap(
                z=np.round(matrix, 3),
                x=list(columns),
                y=list(rows),
                zmin=0,
                zmax=1,
                showscale=column == len(kernels),
                visible=number == 0,
                hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
                row=1,
                col=column,
            )
        row_model, column_model = pair.split(" × ")
        visible = [other == number for other in range(len(pairs)) for _ in kernels]
        titles = {f"xaxis{i}.title.text": column_model for i in ("", 2)}
        updates.append([{"visible": visible}, {"yaxis.title.text": row_model, **titles}])
    draw_as_matrix(figure)
    figure.update_yaxes(autorange=True)  # the first block at the bottom, as papers show CKA
    figure.update_xaxes(tickangle=-60)
    figure.update_layout({name.replace(".", "_"): text for name, text in updates[0][1].items()})
    add_menu(figure, escape_labels(pairs), updates, y=1.04)
    return figure


def plot_head_similarity(similarity: Mapping[str, np.ndarray]) -> go.Figure:
    """Cosine similarity of the heads of a block, one panel per kind, with a slider over blocks.

    Args:
        similarity: by kind, (depth, num_heads, num_heads).
    """
    depth, num_heads, _ = next(iter(similarity.values())).shape
    heads = [str(head + 1) for head in range(num_heads)]
    by_block = [
        {kind: np.round(values[block], 4) for kind, values in similarity.items()}
        for block in range(depth)
    ]
    figure = _plot_cosines("Similarity of attention heads", by_block[0], heads, "head")
    updates = [[{"z": list(panels.values())}] for panels in by_block]
    add_slider(figure, "block", [str(block + 1) for block in range(depth)], updates)
    return figure


def plot_positions(similarity: Mapping[str, np.ndarray]) -> go.Figure:
    """Cosine similarity of position embeddings, one panel per kind, each (18, 18)."""
    panels = {kind: np.round(values, 3) for kind, values in similarity.items()}
    return _plot_cosines("Similarity of position embeddings", panels, LAYERS, "layer of w+")


def _plot_cosines(
    title: str, panels: Mapping[str, np.ndarray], labels: Sequence[str], axis: str
) -> go.Figure:
    figure = new_panels(
        title,
        "cosine: 1 same direction, 0 orthogonal, −1 opposite",
        430,
        cols=len(panels),
        subplot_titles=list(panels),
        horizontal_spacing=0.08,
    )
    for column, values in enumerate(panels.values(), 1):
        figure.add_heatmap(
            z=values,
            x=labels,
            y=labels,
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
    return figure
