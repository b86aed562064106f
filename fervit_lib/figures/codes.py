"""Figures of `w+` codes."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fervit_lib.figures.theme import BAND, PALETTE, escape_labels, new_figure, require
from fervit_lib.latents import BANDS


def plot_code_statistics(mean_norm: np.ndarray, spread: np.ndarray) -> go.Figure:
    """Length and spread of `w+` codes by layer, on shaded coarse, middle and fine bands.

    Args:
        mean_norm: (layers,) mean Euclidean length of a layer's code; 18 layers, or 16 or 14 of a smaller StyleGAN.
        spread: (layers,) standard deviation over the faces, mean over a layer's channels.
    """
    layers = len(spread)
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    for row, (name, values) in enumerate({"mean_norm": mean_norm, "spread": spread}.items(), 1):
        require(
            np.shape(values) == (layers,),
            name,
            f"shape ({layers},), a number a layer",
            np.shape(values),
        )
        figure.add_scatter(
            x=np.arange(layers), y=values, mode="lines+markers", row=row, col=1, showlegend=False
        )
        figure.data[-1].update(
            line_color=PALETTE[0], hovertemplate="layer %{x}: %{y:.3g}<extra></extra>"
        )
    figure.update_layout(new_figure("Codes by layer of w+", height=460, margin_t=64).layout)
    for i, (band, place) in enumerate(BANDS.items()):
        first, last = place.start, min(place.stop, layers) - 1
        fill = (BAND, "#E6EFF5")[i % 2]
        figure.add_vrect(
            first - 0.5, last + 0.5, fillcolor=fill, layer="below", line_width=0, row="all", col=1
        )
        label = {
            "x": (first + last) / 2,
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "showarrow": False,
        }
        figure.add_annotation(text=band, font_color="#555555", **label)
    figure.update_xaxes(range=[-0.5, layers - 0.5], dtick=1, showgrid=False)
    figure.update_xaxes(title_text="layer", row=2)
    figure.update_yaxes(title_text="mean length", rangemode="tozero", row=1)
    figure.update_yaxes(title_text="spread", rangemode="tozero", row=2)
    return figure


def plot_code_distances(distance: np.ndarray, usual: float, low: float, high: float) -> go.Figure:
    """How far the codes of faces lie from their StyleGAN's mean code, `distance` (N,).

    Args:
        usual, low, high: where the StyleGAN's own codes lie, and between what a median is no cause for a warning.
    """
    right = 1.1 * max(distance.max(), usual)
    x = {"title": "distance from latent_avg, mean over the layers", "range": [0, right]}
    subtitle = f"{len(distance):,} faces; shaded: where their median is expected"
    figure = new_figure(
        "Distance from the mean code", subtitle, xaxis=x, yaxis={"title": "faces"}, bargap=0
    )
    counts, edges = np.histogram(distance, 80, (0, right))
    figure.add_bar(
        x=(edges[1:] + edges[:-1]) / 2,
        y=counts,
        hovertemplate="%{x:.3g}: %{y:,} faces<extra></extra>",
    )
    figure.add_vrect(low, min(high, right), fillcolor=BAND, layer="below", line_width=0)
    line = {"line_dash": "dash", "line_color": "#777777", "annotation_text": "StyleGAN's own codes"}
    figure.add_vline(usual, annotation_position="top left", **line)
    return figure


def plot_embedding(points: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """A dot a face, coloured by class; a click in the legend hides a class.

    Args:
        points: (N, 2) coordinates, a few thousand at most.
        labels: (N,) class numbers.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    require(points.ndim == 2 and points.shape[1] == 2, "points", "shape (N, 2)", points.shape)
    require(labels.shape == points.shape[:1], "labels", f"shape ({len(points)},)", labels.shape)
    known = np.isin(labels, range(len(classes)))
    require(
        bool(known.all()),
        "labels",
        f"class numbers below {len(classes)}",
        np.unique(labels[~known]),
    )
    figure = new_figure("Codes in two dimensions", f"{len(points):,} faces", 500, margin_t=110)
    for number, name in enumerate(escape_labels(classes)):
        x, y = points[labels == number].T
        marker = {"size": 5, "opacity": 0.7, "color": PALETTE[number % 8]}
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="name")
    figure.update_layout(
        legend_itemsizing="constant", xaxis_title="direction 1", yaxis_title="direction 2"
    )
    return figure
