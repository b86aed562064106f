"""Figures of a training run."""

import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.theme import (
    GREY,
    PALETTE,
    PERCENT,
    column_label,
    epoch_axis,
    log_axis,
    new_figure,
    new_panels,
)


def plot_training_curves(metrics: pd.DataFrame, title: str = "Training curves") -> go.Figure:
    """Losses by epoch, and below them the validation scores, if there are any.

    Args:
        metrics: the table of `metrics.csv`, one row per epoch: epoch, train_loss, valid_loss, then
            scores. `learning_rate` and `seconds` are ignored.
    """
    losses = ["train_loss", "valid_loss"]
    no_scores = ["epoch", "learning_rate", "seconds", *losses]
    scores = list(metrics.select_dtypes("number").columns.drop(no_scores, errors="ignore"))
    rows = 2 if scores else 1
    figure = new_panels(
        title,
        f"epochs: {len(metrics)}",
        200 + 150 * rows,
        rows=rows,
        shared_xaxes=True,
    )
    for number, name in enumerate(losses + scores):
        figure.add_scatter(
            x=metrics["epoch"] + 1,
            y=metrics[name],
            name=column_label(name),
            mode="lines" if len(metrics) > 1 else "markers",
            line_color=PALETTE[number % 8],
            row=1 if name in losses else 2,
            col=1,
        )
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(title_text="loss", rangemode="tozero", row=1)
    figure.update_xaxes(epoch_axis(metrics["epoch"]))
    if scores:
        figure.update_yaxes(title_text="validation score", tickformat=PERCENT, row=2)
        figure.update_xaxes(title_text="", row=1)
    return figure


def plot_steps(steps: pd.DataFrame) -> go.Figure:
    """Learning rate of the head, and norm of the gradient before clipping, by step.

    Args:
        steps: columns step, learning_rate, gradient_norm.
    """
    figure = new_panels(
        "Learning rate and gradient norm",
        "by training step; learning rate of the head, norm before clipping",
        440,
        rows=2,
        shared_xaxes=True,
    )
    for row, name in enumerate(("learning_rate", "gradient_norm"), 1):
        figure.add_scatter(x=steps["step"], y=steps[name], showlegend=False, row=row, col=1)
        figure.update_yaxes(title_text=name.replace("_", " "), rangemode="tozero", row=row)
    figure.update_traces(mode="lines", line_color=PALETTE[0])
    figure.update_xaxes(title_text="step", tickformat=",d", row=2)
    return figure


def plot_lr_search(tried: pd.DataFrame, chosen: float) -> go.Figure:
    """Loss by learning rate in a learning rate search.

    Args:
        tried: columns lr and loss (smoothed), one row per step.
        chosen: the selected learning rate.
    """
    figure = new_figure(
        "Learning rate search",
        f"selected: {chosen:.1e}",
        xaxis={"title": "learning rate", **log_axis(tried["lr"])},
        yaxis_title="loss",
    )
    figure.add_scatter(x=tried["lr"], y=tried["loss"], mode="lines", name="loss")
    figure.add_vline(x=chosen, line_dash="dash", line_color=GREY)
    return figure


def plot_reconstruction(r2: pd.DataFrame) -> go.Figure:
    """R² of hidden tokens, predicted from the visible ones by the model and by ridge regression.

    Args:
        r2: one row per token: model, ridge, and faces, the number that R² is computed on.
    """
    share = r2["model"].sum() / r2["ridge"].sum()
    figure = new_figure(
        f"Hidden tokens: {share:.0%} of ridge's R²",
        f"predicted from the visible tokens of {r2['faces'].iloc[0]} validation faces; 0: the mean",
        xaxis_title="hidden token",
        yaxis_title="R²",
    )
    for name in ("model", "ridge"):
        figure.add_bar(
            x=r2.index, y=r2[name], name=name, hovertemplate="token %{x}: %{y:.2f}<extra></extra>"
        )
    return figure
