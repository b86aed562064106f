"""Figures of `w+` codes and their layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fervit_lib.figures.theme import (
    DIVERGING,
    GREY,
    PALETTE,
    escape_labels,
    group_classes,
    new_figure,
    new_panels,
    require,
)
from fervit_lib.latents import layer_bands

LIGHT_GREY = "#F3F3F3"
_FILLS = {"coarse": LIGHT_GREY, "middle": "#E6EFF5", "fine": LIGHT_GREY}


def token_names(num_layers: int) -> list[str]:
    """CLS and the layers of a code."""
    return ["CLS", *map(str, range(num_layers))]


def shade_bands(figure: go.Figure, num_layers: int, offset: float = 0, **panel: Any) -> None:
    """Shade and name the coarse, middle and fine layers behind a plot with the layers along x.

    Args:
        offset: x of layer 0.
        panel: `row` and `col` of plotly, in a figure of several panels.
    """
    for band, layers in layer_bands(num_layers).items():
        first = layers.start + offset - 0.5
        last = layers.stop + offset - 0.5
        figure.add_vrect(first, last, fillcolor=_FILLS[band], layer="below", line_width=0, **panel)
        figure.add_annotation(
            text=band,
            x=(first + last) / 2,
            y=1,
            yref="y domain",
            yanchor="bottom",
            showarrow=False,
            font={"color": "#555555", "size": 12},
        )


def plot_code_statistics(codes: np.ndarray) -> go.Figure:
    """Mean norm of `w+` codes by layer, and their standard deviation over faces.

    Args:
        codes: (n, layers, 512); 18 layers, or 16 or 14 of a smaller StyleGAN.
    """
    num_layers = codes.shape[1]
    mean_norm = np.linalg.norm(codes, axis=-1).mean(0)
    spread = codes.std(0).mean(-1)  # over faces, then the mean of the channels
    figure = new_panels(
        "Size and spread of the codes by layer",
        f"n = {len(codes):,} training faces; spread: over faces, mean of the 512 channels",
        height=460,
        rows=2,
        shared_xaxes=True,
    )
    for row, values in enumerate((mean_norm, spread), 1):
        figure.add_scatter(
            x=np.arange(num_layers),
            y=values,
            mode="lines+markers",
            line_color=PALETTE[0],
            showlegend=False,
            hovertemplate="layer %{x}: %{y:.3g}<extra></extra>",
            row=row,
            col=1,
        )
    shade_bands(figure, num_layers, row="all", col=1)
    figure.update_xaxes(range=[-0.5, num_layers - 0.5], dtick=1, showgrid=False)
    figure.update_xaxes(title_text="layer of w+", row=2)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="mean norm", row=1)
    figure.update_yaxes(title_text="spread (SD)", row=2)
    return figure


def plot_code(codes: np.ndarray, title: str) -> go.Figure:
    """The first of several codes as a heat map, as its difference from their mean.

    Args:
        codes: (N, layers, channels), at least two.
    """
    spread = codes.std(0) + 1e-6
    difference = ((codes[0] - codes.mean(0)) / spread).round(1)
    layers, channels = difference.shape
    figure = new_figure(
        title,
        f"difference from the mean of n = {len(codes)} codes, in SD of each number",
        xaxis={"title": f"channel (of {channels})", "showgrid": False},
        yaxis={"title": f"layer (of {layers})", "autorange": "reversed", "dtick": 2},
    )
    figure.add_heatmap(
        z=difference,
        colorscale=DIVERGING,
        zmin=-3,
        zmax=3,
        xgap=0,
        colorbar={"title": "SD", "thickness": 10},
        hovertemplate="layer %{y}, channel %{x}: %{z} SD<extra></extra>",
    )
    return figure


def plot_code_distances(distance: np.ndarray, usual: float, low: float, high: float) -> go.Figure:
    """Histogram of the distances between codes and the mean code of their StyleGAN.

    Args:
        distance: (N,) distance of each face.
        usual: distance of codes that the StyleGAN itself sampled.
        low: smallest median that gives no warning.
        high: largest median that gives no warning.
    """
    right = 1.1 * max(distance.max(), usual)
    figure = new_figure(
        "Distance from the mean code",
        f"n = {len(distance):,} faces; shaded: expected range of the median",
        xaxis={"title": "distance from latent_avg, mean over layers", "range": [0, right]},
        yaxis={"title": "faces"},
        bargap=0,
    )
    counts, edges = np.histogram(distance, 80, (0, right))
    figure.add_bar(
        x=(edges[1:] + edges[:-1]) / 2,
        y=counts,
        hovertemplate="%{x:.3g}: %{y:,} faces<extra></extra>",
    )
    figure.add_vrect(low, min(high, right), fillcolor=LIGHT_GREY, layer="below", line_width=0)
    figure.add_vline(
        usual,
        line_dash="dash",
        line_color=GREY,
        annotation_text="StyleGAN samples",
        annotation_position="top left",
    )
    return figure


def add_class_points(
    figure: go.Figure, points: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> None:
    """Add `points` (N, 2), one trace per class; a click in the legend hides a class."""
    for number, name in enumerate(escape_labels(classes)):
        x, y = points[labels == number].T
        marker = {"size": 5, "opacity": 0.7, "color": PALETTE[number % 8]}
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="name")
    figure.update_layout(
        legend_itemsizing="constant", xaxis_title="component 1", yaxis_title="component 2"
    )


def plot_embedding(
    points: np.ndarray, labels: np.ndarray, classes: Sequence[str], variance: float
) -> go.Figure:
    """One dot per face in the plane of the first two principal components, coloured by class.

    Args:
        points: (N, 2) coordinates, a few thousand at most.
        labels: (N,) class indices.
        variance: share of the variance in these two components.
    """
    # Points of other labels would be missing from the figure without an error.
    unknown = np.setdiff1d(labels, range(len(classes)))
    require(unknown.size == 0, "labels", f"class indices below {len(classes)}", unknown)
    subtitle = f"n = {len(points):,} training faces; {variance:.0%} of the variance of the codes"
    figure = new_figure("Codes in two dimensions, by emotion", subtitle, 540)
    group, names = group_classes(np.bincount(labels, minlength=len(classes)), classes)
    add_class_points(figure, points, group[labels], names)
    return figure
