"""Figures of a training run."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fervit_lib.figures.theme import PALETTE, PERCENT, new_figure, require, require_columns


def plot_training_curves(metrics: pd.DataFrame, title: str = "Training curves") -> go.Figure:
    """Losses above, every other score (if there is one) below, over the epochs.

    Args:
        metrics: as `metrics.csv`: epoch, train_loss, valid_loss, then scores (`seconds` is left out); a row an epoch.
    """
    losses = ["train_loss", "valid_loss"]
    require_columns("metrics", metrics, ["epoch", *losses])
    scores = [
        name
        for name in metrics.select_dtypes("number")
        if name not in ("epoch", "seconds", *losses)
    ]
    rows = 2 if scores else 1
    figure = make_subplots(rows=rows, shared_xaxes=True, vertical_spacing=0.08)
    epochs = metrics["epoch"] + 1
    mode = "lines" if len(metrics) > 1 else "markers"
    for row, names in ((1, losses), (2, scores)):
        for name in names:
            label, color = (
                name.replace("_", " ").replace("f1", "F1"),
                PALETTE[(losses + scores).index(name) % 8],
            )
            figure.add_scatter(
                x=epochs, y=metrics[name], name=label, mode=mode, line_color=color, row=row, col=1
            )
    figure.update_layout(
        new_figure(title, f"{len(metrics)} epochs", 200 + 150 * rows, hovermode="x unified").layout
    )
    figure.update_yaxes(title_text="loss", rangemode="tozero", row=1)
    if scores:
        figure.update_yaxes(title_text="score on validation", tickformat=PERCENT, row=2)
    figure.update_xaxes(title_text="epoch", tickformat="d", row=rows)
    return figure


def plot_rates_tried(tried: pd.DataFrame, chosen: float) -> go.Figure:
    """The search for a learning rate: loss over the rates tried.

    Args:
        tried: columns lr and loss (smoothed), a row a step.
        chosen: the rate that was taken.
    """
    require_columns("tried", tried, ["lr", "loss"])
    x = {"title": "learning rate", "type": "log"}
    figure = new_figure(
        "Learning rates tried", f"chosen: {chosen:.1e}", xaxis=x, yaxis={"title": "loss"}
    )
    figure.add_scatter(x=tried["lr"], y=tried["loss"], mode="lines", name="loss")
    figure.add_vline(x=chosen, line_dash="dash", line_color="#555555")
    return figure


def plot_reconstruction(target: np.ndarray, painted: np.ndarray, mask: np.ndarray) -> go.Figure:
    """How well hidden tokens were painted: R² of each token over the inputs in which it was hidden.

    Args:
        target: (B, N, T) what was to be painted.
        painted: (B, N, T).
        mask: (B, N) bool, True where hidden.
    """
    target, painted, mask = (np.asarray(array) for array in (target, painted, mask))
    require(
        target.shape == painted.shape and mask.shape == target.shape[:2],
        "painted, mask",
        "fitting shapes",
        "others",
    )
    scores = []
    for token in range(target.shape[1]):
        hidden = mask[:, token]
        spread = ((target[:, token] - target[:, token].mean(0)) ** 2).sum()
        error = (
            ((target[hidden, token] - painted[hidden, token]) ** 2).mean()
            if hidden.any()
            else np.nan
        )
        scores.append(1 - error * target[:, token].size / max(spread, 1e-12))
    subtitle = f"over {len(target)} faces; 1: exact, 0: no better than the mean"
    x = {"title": "token", "tickformat": "d"}
    figure = new_figure("Hidden tokens painted in", subtitle, xaxis=x, yaxis={"title": "R²"})
    figure.add_bar(
        x=np.arange(target.shape[1]), y=scores, hovertemplate="token %{x}: %{y:.2f}<extra></extra>"
    )
    return figure
