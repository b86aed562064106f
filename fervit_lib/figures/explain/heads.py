"""What heads are like, and which of them are needed."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fervit_lib.figures.explain.controls import DIVERGING, SEQUENTIAL, add_slider
from fervit_lib.figures.theme import PALETTE, PERCENT, new_figure


def plot_heads(values: Mapping[str, np.ndarray]) -> go.Figure:
    """A heat map a score, each (depth, num_heads): what every head is like. Scales are each their own."""
    figure = make_subplots(cols=len(values), subplot_titles=list(values), horizontal_spacing=0.14)
    depth, num_heads = next(iter(values.values())).shape
    figure.update_layout(new_figure("Heads", height=190 + 34 * max(depth, 3), margin_t=100).layout)
    for column, (name, score) in enumerate(values.items(), 1):
        domain = figure.layout[f"xaxis{column if column > 1 else ''}"].domain
        bar = {
            "x": domain[1] + 0.005,
            "thickness": 8,
            "tickfont": {"size": 10},
            "nticks": 4,
            "tickformat": ".4~g",
        }
        figure.add_heatmap(
            z=np.asarray(score), x=[str(h + 1) for h in range(num_heads)], y=[str(i + 1) for i in range(depth)],
            colorscale=SEQUENTIAL, colorbar=bar, xgap=1, ygap=1, row=1, col=column,
            hovertemplate=f"block %{{y}}, head %{{x}}: %{{z:.3f}}<extra>{name}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="head", type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    figure.update_yaxes(title="block", col=1)
    return figure


def plot_head_similarity(similarity: Mapping[str, np.ndarray]) -> go.Figure:
    """How alike the heads of a block are, a panel a kind, a slider over blocks; each (depth, num_heads, num_heads)."""
    figure = make_subplots(
        cols=len(similarity), subplot_titles=list(similarity), horizontal_spacing=0.08
    )
    subtitle = "cosine: 1 the same, 0 nothing in common, −1 opposite"
    figure.update_layout(
        new_figure("Similarity of heads", subtitle, height=430, margin_t=110).layout
    )
    depth, num_heads, _ = next(iter(similarity.values())).shape
    names = [str(h + 1) for h in range(num_heads)]
    for column, (kind, values) in enumerate(similarity.items(), 1):
        figure.add_heatmap(
            z=np.round(values[0], 4), x=names, y=names, zmin=-1, zmax=1, colorscale=DIVERGING, row=1, col=column,
            showscale=column == len(similarity), xgap=1, ygap=1, colorbar={"thickness": 10},
            hovertemplate=f"heads %{{y}} and %{{x}}: %{{z:.2f}}<extra>{kind}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="head", type="category", showgrid=False, constrain="domain")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    steps = [
        [{"z": [np.round(values[i], 4) for values in similarity.values()]}] for i in range(depth)
    ]
    add_slider(figure, "block", [str(i + 1) for i in range(depth)], steps)
    return figure


def plot_pruning(by_importance: np.ndarray, at_random: np.ndarray) -> go.Figure:
    """Accuracy against heads switched off: least important first (heads + 1,), random orders (repeats, heads + 1)."""
    figure = new_figure(
        "Accuracy as heads go",
        "the least important first, and random orders",
        height=400,
        margin_t=110,
    )
    steps, random = np.arange(len(by_importance)), np.asarray(at_random)
    figure.add_scatter(
        x=steps, y=by_importance, name="by importance", mode="lines+markers", line_color=PALETTE[0]
    )
    spread = {
        "array": random.max(0) - random.mean(0),
        "arrayminus": random.mean(0) - random.min(0),
        "width": 3,
    }
    line = {"color": "#888888", "dash": "dash"}
    figure.add_scatter(
        x=steps,
        y=random.mean(0),
        name="at random (mean, range)",
        mode="lines",
        line=line,
        error_y=spread,
    )
    figure.update_yaxes(tickformat=PERCENT, title="accuracy", rangemode="tozero")
    figure.update_xaxes(title="heads switched off", tickformat="d")
    return figure
