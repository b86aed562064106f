"""How alike models are, and what each of their blocks knows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fervit_lib.figures.explain.controls import SEQUENTIAL, add_menu, add_slider
from fervit_lib.figures.theme import PALETTE, PERCENT, escape_labels, new_figure, require_columns


def plot_cka(
    pairs: Mapping[str, Mapping[str, tuple[np.ndarray, Sequence[str], Sequence[str]]]],
) -> go.Figure:
    """CKA of all layers of two models, a panel a kernel, a menu of pairs.

    Args:
        pairs: "rows × columns" → kernel → (matrix, names of rows, names of columns).
    """
    kernels = list(next(iter(pairs.values())))
    titles = {"linear": "linear", "rbf": "Gaussian"}
    figure = make_subplots(cols=len(kernels), subplot_titles=[titles.get(k, k) for k in kernels])
    figure.update_layout(
        new_figure(
            "Do models agree? (CKA)", "1: alike up to rotation", height=520, margin_t=130
        ).layout
    )
    for number, found in enumerate(pairs.values()):
        for column, kernel in enumerate(kernels, 1):
            matrix, rows, columns = found[kernel]
            figure.add_heatmap(
                z=np.round(matrix, 3), x=list(columns), y=list(rows), zmin=0, zmax=1, colorscale=SEQUENTIAL, row=1,
                col=column, visible=number == 0, showscale=column == len(kernels), xgap=1, ygap=1,
                colorbar={"thickness": 10}, hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
            )  # fmt: skip
    figure.update_yaxes(type="category", showgrid=False)
    figure.update_xaxes(type="category", showgrid=False, tickangle=-60)
    sides = [name.split(" × ") for name in pairs]
    axes = [
        {"yaxis.title.text": a, **{f"xaxis{i or ''}.title.text": b for i in ("", 2)}}
        for a, b in sides
    ]
    figure.update_yaxes(title=sides[0][0], col=1)
    figure.update_xaxes(title=sides[0][1])
    visible = [
        [{"visible": [k // len(kernels) == n for k in range(len(figure.data))]}]
        for n in range(len(pairs))
    ]
    add_menu(
        figure,
        escape_labels(pairs),
        [[*v, axis] for v, axis in zip(visible, axes, strict=True)],
        y=1.04,
    )
    return figure


def plot_probes(scores: pd.DataFrame) -> go.Figure:
    """Accuracy of linear readers over depth, a line a run and number of shots, bars from lowest to highest draw.

    Args:
        scores: columns run, layer, shots, accuracy, lowest, highest.
    """
    require_columns("scores", scores, ["run", "layer", "shots", "accuracy", "lowest", "highest"])
    figure = new_figure(
        "Few-shot reading by depth", height=440, margin_t=130, xaxis={"title": "after"}
    )
    runs, shots = list(scores["run"].unique()), sorted(scores["shots"].unique())
    for (run, number), group in scores.groupby(["run", "shots"], sort=False):
        line = {
            "color": PALETTE[runs.index(run) % 8],
            "dash": ("solid", "dot", "dash")[shots.index(number) % 3],
        }
        ends = {
            "array": group["highest"] - group["accuracy"],
            "arrayminus": group["accuracy"] - group["lowest"],
        }
        figure.add_scatter(
            x=group["layer"], y=group["accuracy"], name=f"{escape_labels([run])[0]}, {number} a class", line=line,
            error_y=ends | {"thickness": 1, "width": 3}, mode="lines+markers",
            hovertemplate="%{x}: %{y:.1%}",
        )  # fmt: skip
    figure.update_yaxes(tickformat=PERCENT, title="accuracy", rangemode="tozero")
    return figure


def plot_depths(
    points: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str], title: str
) -> go.Figure:
    """Vectors in two directions, coloured by class, a slider over depth; each of `points` (n, 2)."""
    figure = new_figure(title, f"{len(labels):,} points, PCA at each depth", 560, margin_t=120)
    first = next(iter(points.values()))
    for number, name in enumerate(escape_labels(classes)):
        x, y = first[labels == number].T
        marker = {"size": 5, "opacity": 0.75, "color": PALETTE[number % 8]}
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="name")
    limit = 1.05 * max(np.abs(found).max() for found in points.values())
    chosen = [labels == number for number in range(len(classes))]
    steps = [
        [{axis: [p[c, i].round(3) for c in chosen] for i, axis in enumerate("xy")}]
        for p in points.values()
    ]
    add_slider(figure, "after", list(points), steps, len=0.94, x=0.03)
    figure.update_xaxes(range=[-limit, limit], title="direction 1")
    figure.update_yaxes(range=[-limit, limit], title="direction 2")
    figure.update_layout(legend_itemsizing="constant")
    return figure
