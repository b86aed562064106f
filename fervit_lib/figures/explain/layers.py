"""Importance of the layers of a code, and what swapping them changes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.codes import shade_bands
from fervit_lib.figures.theme import (
    GREY,
    INK,
    PALETTE,
    PERCENT,
    add_to_panel,
    error_bars,
    escape_label,
    largest_error,
    new_figure,
    new_panels,
)


def plot_layer_scores(
    scores: pd.DataFrame,
    title: str,
    caption: str,
    axis: str,
    errors: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> go.Figure:
    """Grouped bars over the layers, with coarse, middle and fine layers shaded.

    Args:
        scores: one row per layer of w+, one column per method.
        axis: title of the y axis, with its unit.
        errors: by column, lower and upper ends of an interval, each (layers,).
    """
    figure = new_figure(
        title,
        escape_label(caption),
        margin_t=96,
        xaxis={"title": "layer of w+", "dtick": 1, "range": [-0.5, len(scores) - 0.5]},
        yaxis_title=axis,
    )
    figure.update_xaxes(showgrid=False)
    shade_bands(figure, len(scores))
    for name, color in zip(scores, PALETTE, strict=False):
        values = scores[name].to_numpy()
        figure.add_bar(
            x=np.arange(len(scores)),
            y=values,
            error_y=error_bars(values, *errors[name], INK) if errors and name in errors else None,
            name=str(name),
            marker_color=color,
            hovertemplate="layer %{x}: %{y:.1f}",
        )
    return figure


def plot_removal_curves(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    title: str,
    score: str,
    unit: str,
    num_faces: int,
) -> go.Figure:
    """A score as layers or heads are removed, one panel per experiment.

    Args:
        curves: by panel ("deletion", "insertion") and ranking, (steps,), or (repeats, steps) of
            random orders.
        score: what the curves show, the mean over the faces.
        unit: what is removed.
    """
    figure = new_panels(
        title,
        f"n = {num_faces:,} faces, {largest_error(num_faces)}; grey: random orders, mean and range",
        470,
        cols=len(curves),
        shared_yaxes=True,
        subplot_titles=list(curves),
        horizontal_spacing=0.05,
    )
    for column, rankings in enumerate(curves.values(), 1):
        for number, (name, values) in enumerate(rankings.items()):
            values = np.asarray(values)
            line = {"color": PALETTE[number % 8]}
            error = None
            if values.ndim == 2:  # several random orders: the control
                line = {"color": GREY, "dash": "dash"}
                error = error_bars(values.mean(0), values.min(0), values.max(0))
                values = values.mean(0)
            add_to_panel(
                figure,
                name,
                col=column,
                x=np.arange(len(values)),
                y=values,
                error_y=error,
                mode="lines",
                line=line,
                hovertemplate="%{x} " + unit + ": %{y:.1%}",
            )
    figure.update_xaxes(title=unit, dtick=len(values) // 12 + 1)
    figure.update_yaxes(tickformat=PERCENT, rangemode="tozero")
    figure.update_yaxes(title=score, col=1)
    return figure


def plot_swaps(effects: pd.DataFrame, title: str, axis: str) -> go.Figure:
    """Predictions for faces of which a part was replaced by that of another face.

    Args:
        effects: columns mixture, kept, taken, num_pairs, from `explain.swap_effect`.
        axis: title of the x axis, along which the mixtures stand.
    """
    num_pairs = int(effects["num_pairs"].iloc[0])
    figure = new_figure(
        escape_label(title),
        f"n = {num_pairs:,} pairs of faces with different predictions; {largest_error(num_pairs)}",
        barmode="stack",
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis_title=axis,
        yaxis={"title": "share of the pairs", "tickformat": PERCENT, "range": [0, 1]},
    )
    outcomes = (
        ("label of the face", effects["kept"], PALETTE[0]),
        ("label of the other face", effects["taken"], PALETTE[1]),
        ("another label", 1 - effects["kept"] - effects["taken"], "#BBBBBB"),
    )
    for name, share, color in outcomes:
        figure.add_bar(
            x=effects["mixture"],
            y=share,
            name=name,
            marker_color=color,
            texttemplate="%{value:.0%}",
            textposition="inside",
            hovertemplate="%{x}: %{y:.1%}",
        )
    return figure


def plot_responses(
    responses: pd.DataFrame,
    random: Sequence[pd.DataFrame],
    classes: Sequence[str],
    subtitle: str,
) -> go.Figure:
    """Probability of each class as faces are moved to it, and along random directions (dotted).

    Args:
        responses: from `explain.direction_response`, one row per class.
        random: likewise, one table per draw of directions.
    """
    title = "Response to directions of emotions"
    figure = new_figure(title, subtitle, 460, xaxis_title="steps along the direction")
    for i, name in enumerate(classes):
        line = {"color": PALETTE[i % 8]}
        for table, dash in ((responses, "solid"), *((table, "dot") for table in random)):
            values = table.drop(columns="rising").iloc[i]
            figure.add_scatter(
                x=values.index,
                y=values,
                mode="lines",
                line=line | {"dash": dash, "width": 2 if dash == "solid" else 1},
                name=escape_label(name),
                legendgroup=name,
                showlegend=dash == "solid",
                hovertemplate="%{x}: %{y:.1%}",
            )
    figure.update_yaxes(title="probability of the emotion", tickformat=PERCENT, rangemode="tozero")
    return figure
