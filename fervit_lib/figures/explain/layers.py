"""Which layers of a code count, and what is in them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fervit_lib.figures.explain.controls import DIVERGING, SEQUENTIAL, add_menu, shade_bands
from fervit_lib.figures.theme import (
    PALETTE,
    PERCENT,
    escape_labels,
    new_figure,
    require,
    require_columns,
)
from fervit_lib.latents import NUM_LAYERS


def plot_layer_scores(
    scores: pd.DataFrame,
    title: str,
    axis: str,
    errors: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> go.Figure:
    """Grouped bars over the 18 layers on shaded bands.

    Args:
        scores: a row a layer of w+, a column a method; `axis` says what of.
        errors: by column, lower and upper end of an interval, each (18,).
    """
    require(len(scores) == NUM_LAYERS, "scores", f"{NUM_LAYERS} rows, one a layer", len(scores))
    figure = new_figure(
        title, height=400, margin_t=110, yaxis={"title": axis, "tickformat": PERCENT}
    )
    shade_bands(figure)
    for name, color in zip(scores, PALETTE, strict=False):
        bar: dict[str, object] = {
            "name": str(name),
            "marker_color": color,
            "hovertemplate": "layer %{x}: %{y:.1%}",
        }
        if errors and name in errors:
            low, high = errors[name]
            values = scores[name].to_numpy()
            ends = {"array": high - values, "arrayminus": values - low, "thickness": 1, "width": 2}
            bar["error_y"] = ends | {"color": "#333333"}
        figure.add_bar(x=np.arange(NUM_LAYERS), y=scores[name], **bar)
    figure.update_xaxes(
        title="layer of w+", dtick=1, range=[-0.5, NUM_LAYERS - 0.5], showgrid=False
    )
    figure.update_layout(legend_y=1.1)
    return figure


def plot_removal_curves(curves: Mapping[str, Mapping[str, np.ndarray]]) -> go.Figure:
    """Probability of the class as layers go (deletion) or come (insertion), a panel each.

    Args:
        curves: {"deletion": …, "insertion": …} → by ranking a curve (steps,); `random` is (repeats, steps).
    """
    figure = make_subplots(
        cols=len(curves), shared_yaxes=True, subplot_titles=list(curves), horizontal_spacing=0.05
    )
    subtitle = "probability of the class first predicted; grey: random orders"
    figure.update_layout(
        new_figure("Deletion and insertion", subtitle, height=430, margin_t=150).layout
    )
    for column, (panel, lines) in enumerate(curves.items(), 1):
        for number, (name, values) in enumerate(lines.items()):
            values = np.asarray(values)
            random = values.ndim == 2
            mean = values.mean(0) if random else values
            line = {
                "color": "#888888" if random else PALETTE[number % 8],
                "dash": "dash" if random else "solid",
            }
            figure.add_scatter(
                x=np.arange(len(mean)), y=mean, name=name, line=line, mode="lines", row=1, col=column,
                legendgroup=name, showlegend=column == 1, hovertemplate="%{x} layers: %{y:.1%}",
            )  # fmt: skip
        figure.update_xaxes(
            title=f"layers {'taken out' if panel == 'deletion' else 'put in'}", row=1, col=column
        )
    figure.update_yaxes(tickformat=PERCENT, rangemode="tozero")
    figure.update_layout(legend={"y": 1.12})
    return figure


def plot_layers_off(
    probs: np.ndarray, faces: Sequence[str], classes: Sequence[str], removed: Sequence[str]
) -> go.Figure:
    """What each face is read as with nothing, each band or each layer off; a menu of faces.

    Args:
        probs: (faces, len(removed), classes).
    """
    require(
        probs.shape == (len(faces), len(removed), len(classes)),
        "probs",
        "faces, removed, classes",
        probs.shape,
    )
    figure = new_figure("A face with layers off", height=620, margin_t=110)
    shown, hover = probs.round(3), "%{y}: %{x} %{z:.1%}<extra></extra>"
    figure.add_heatmap(
        z=shown[0], x=escape_labels(classes), y=list(removed),
        zmin=0, zmax=1, colorscale=SEQUENTIAL, hovertemplate=hover,
        texttemplate="%{z:.0%}", xgap=1, ygap=1, showscale=False,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category", title="off", showgrid=False)
    figure.update_xaxes(side="bottom", showgrid=False, title="read as")
    add_menu(figure, escape_labels(faces), [[{"z": [values]}] for values in shown])
    return figure


def plot_swaps(effects: pd.DataFrame) -> go.Figure:
    """What a face is read as after one band came from another: as itself, as the other, as something else."""
    require_columns("effects", effects, ["band", "kept", "taken", "num_pairs"])
    subtitle = f"{effects['num_pairs'].iloc[0]:,} pairs of faces that are read differently"
    figure = new_figure("Layers swapped", subtitle, height=400, margin_t=110, barmode="stack")
    rest = 1 - effects["kept"] - effects["taken"]
    parts = {
        "still the first face's": effects["kept"],
        "now the other's": effects["taken"],
        "a third": rest,
    }
    for (name, share), color in zip(
        parts.items(), (PALETTE[0], PALETTE[1], "#BBBBBB"), strict=True
    ):
        text = [f"{s:.0%}" for s in share]
        bar = {
            "marker_color": color,
            "text": text,
            "textposition": "inside",
            "hovertemplate": "%{x}: %{y:.1%}",
        }
        figure.add_bar(x=effects["band"], y=share, name=name, **bar)
    figure.update_yaxes(tickformat=PERCENT, title="pairs", range=[0, 1])
    figure.update_xaxes(title="layers from the other face")
    return figure


def plot_positions(similarity: Mapping[str, np.ndarray]) -> go.Figure:
    """Cosine between position embeddings, a panel a kind, each (18, 18)."""
    figure = make_subplots(
        cols=len(similarity), subplot_titles=list(similarity), horizontal_spacing=0.06
    )
    figure.update_layout(
        new_figure("Position embeddings", "cosine of each two layers", 400, margin_t=110).layout
    )
    for column, values in enumerate(similarity.values(), 1):
        figure.add_heatmap(
            z=np.round(values, 3), zmin=-1, zmax=1, colorscale=DIVERGING, row=1, col=column,
            showscale=column == len(similarity), colorbar={"thickness": 10},
            hovertemplate="layers %{y} and %{x}: %{z:.2f}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(showgrid=False, constrain="domain", title="layer of w+")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure
