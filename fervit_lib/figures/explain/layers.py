"""Importance of the layers of a code, and what swapping them changes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.codes import shade_bands
from fervit_lib.figures.controls import add_menu
from fervit_lib.figures.theme import (
    GREY,
    INK,
    PALETTE,
    PERCENT,
    draw_as_matrix,
    error_bars,
    escape_labels,
    new_figure,
    new_panels,
    require,
)
from fervit_lib.latents import NUM_LAYERS


def plot_layer_scores(
    scores: pd.DataFrame,
    title: str,
    axis: str,
    errors: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> go.Figure:
    """Grouped bars over the 18 layers, with coarse, middle and fine layers shaded.

    Args:
        scores: one row per layer of w+, one column per method.
        axis: title of the y axis.
        errors: by column, lower and upper end of an interval, each (18,).
    """
    require(len(scores) == NUM_LAYERS, "scores", f"{NUM_LAYERS} rows, one per layer", len(scores))
    figure = new_figure(
        title,
        margin_t=110,
        xaxis={"title": "layer of w+", "dtick": 1, "range": [-0.5, NUM_LAYERS - 0.5]},
        yaxis={"title": axis, "tickformat": PERCENT},
        legend_y=1.1,
    )
    figure.update_xaxes(showgrid=False)
    shade_bands(figure)
    for name, color in zip(scores, PALETTE, strict=False):
        values = scores[name].to_numpy()
        figure.add_bar(
            x=np.arange(NUM_LAYERS),
            y=values,
            error_y=error_bars(values, *errors[name], INK) if errors and name in errors else None,
            name=str(name),
            marker_color=color,
            hovertemplate="layer %{x}: %{y:.1%}",
        )
    return figure


def plot_removal_curves(curves: Mapping[str, Mapping[str, np.ndarray]]) -> go.Figure:
    """Probability of the class as layers are removed or inserted, one panel each.

    Args:
        curves: by panel ("deletion", "insertion") and ranking, (steps,), or (repeats, steps) of
            random orders.
    """
    figure = new_panels(
        "Deletion and insertion of layers",
        "probability of the class predicted from the whole code; grey: random orders",
        430,
        margin_t=150,
        cols=len(curves),
        shared_yaxes=True,
        subplot_titles=list(curves),
        horizontal_spacing=0.05,
    )
    for column, rankings in enumerate(curves.values(), 1):
        for number, (name, values) in enumerate(rankings.items()):
            values = np.asarray(values)
            line = {"color": PALETTE[number % 8]}
            if values.ndim == 2:  # several random orders: the control
                values = values.mean(0)
                line = {"color": GREY, "dash": "dash"}
            figure.add_scatter(
                x=np.arange(len(values)),
                y=values,
                mode="lines",
                line=line,
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                hovertemplate="%{x} layers: %{y:.1%}",
                row=1,
                col=column,
            )
    figure.update_yaxes(tickformat=PERCENT, rangemode="tozero")
    figure.update_yaxes(title="probability", col=1)
    figure.update_xaxes(title="layers removed or inserted")
    figure.update_layout(legend_y=1.12)
    return figure


def plot_layers_off(
    probs: np.ndarray, faces: Sequence[str], classes: Sequence[str], removed: Sequence[str]
) -> go.Figure:
    """Predictions for each face with no layer, each band or each layer removed; a menu of faces.

    Args:
        probs: (faces, len(removed), classes).
    """
    shape = (len(faces), len(removed), len(classes))
    require(probs.shape == shape, "probs", f"shape {shape}", probs.shape)
    figure = new_figure("Prediction with layers removed", height=620, margin_t=110)
    probs = probs.round(3)
    figure.add_heatmap(
        z=probs[0],
        x=escape_labels(classes),
        y=list(removed),
        texttemplate="%{z:.0%}",
        zmin=0,
        zmax=1,
        showscale=False,
        hovertemplate="%{y} removed: %{x} %{z:.1%}<extra></extra>",
    )
    draw_as_matrix(figure)
    figure.update_xaxes(title="predicted probability")
    figure.update_yaxes(title="removed")
    add_menu(figure, escape_labels(faces), [[{"z": [values]}] for values in probs])
    return figure


def plot_swaps(effects: pd.DataFrame) -> go.Figure:
    """Predictions for faces of which one band was replaced by that of another face.

    Args:
        effects: columns band, kept, taken, num_pairs, from `explain.swap_effect`.
    """
    figure = new_figure(
        "Prediction after swapping layers",
        f"n = {effects['num_pairs'].iloc[0]:,} pairs of faces with different predictions",
        margin_t=110,
        barmode="stack",
        xaxis_title="layers from the other face",
        yaxis={"title": "pairs", "tickformat": PERCENT, "range": [0, 1]},
    )
    outcomes = (
        ("label of the face", effects["kept"], PALETTE[0]),
        ("label of the other face", effects["taken"], PALETTE[1]),
        ("another label", 1 - effects["kept"] - effects["taken"], "#BBBBBB"),
    )
    for name, share, color in outcomes:
        figure.add_bar(
            x=effects["band"],
            y=share,
            name=name,
            marker_color=color,
            texttemplate="%{value:.0%}",
            textposition="inside",
            hovertemplate="%{x}: %{y:.1%}",
        )
    return figure
