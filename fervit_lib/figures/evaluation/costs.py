"""Accuracy against cost: parameters, operations, time, memory, energy."""

import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.theme import (
    PALETTE,
    PERCENT,
    SYMBOLS,
    error_bars,
    escape_labels,
    log_axis,
    new_panels,
)

_COSTS = {  # column: axis title
    "trainable_parameters": "trained parameters",
    "total_parameters": "parameters",
    "macs": "MACs per face",
    "checkpoint_mb": "checkpoint (MB)",
    "train_seconds": "training time (s)",
    "seconds_per_epoch": "time per epoch (s)",
    "latency_p50_ms": "latency p50 (ms)",
    "whole_p50_ms": "latency p50 from file to label (ms)",
    "throughput": "throughput (faces/s)",
    "host_memory_gb": "memory (GB)",
    "gpu_memory_gb": "GPU memory (GB)",
    "joules_per_face": "energy per face (J)",
}


def plot_accuracy_by_parameters(runs: pd.DataFrame) -> go.Figure:
    """Accuracy with 95% CI against trained parameters; colour: approach, shape: strategy.

    Args:
        runs: columns approach, strategy, variant, accuracy, accuracy_low, accuracy_high,
            trainable_parameters.
    """
    figure = new_panels("Accuracy against trained parameters", "95% CI over the test faces", 440)
    _add_cost(figure, runs, "trainable_parameters")
    return figure


def plot_costs(runs: pd.DataFrame) -> go.Figure:
    """Accuracy against each measured cost, one panel per cost; markers as by parameters.

    Args:
        runs: columns approach, strategy, variant, accuracy, accuracy_low, accuracy_high, and the
            costs; a cost without any value is left out.
    """
    costs = [name for name in _COSTS if name in runs and runs[name].notna().any()]
    rows = -(-len(costs) // 2)
    legend = 22 * -(-len(runs.groupby(["approach", "strategy"])) // 5)  # pixels: 5 names per line
    figure = new_panels(
        "Accuracy against cost",
        "one run per recipe, 95% CI; higher and further left is better, except for throughput",
        100 + legend + 230 * rows,
        margin_t=74 + legend,
        rows=rows,
        cols=2,
        shared_yaxes=True,
        vertical_spacing=0.36 / rows,
        horizontal_spacing=0.04,
    )
    for number, cost in enumerate(costs):
        _add_cost(figure, runs, cost, number // 2 + 1, number % 2 + 1)
    return figure


def _add_cost(figure: go.Figure, runs: pd.DataFrame, cost: str, row: int = 1, col: int = 1) -> None:
    """Fill one panel; the first one has the legend."""
    approaches = list(runs["approach"].unique())
    strategies = list(runs["strategy"].unique())
    for (approach, strategy), group in runs.groupby(["approach", "strategy"], sort=False):
        name = f"{approach} {strategy}"
        color = PALETTE[approaches.index(approach) % 8]
        symbol = SYMBOLS[strategies.index(strategy) % 8]
        figure.add_scatter(
            x=group[cost],
            y=group["accuracy"],
            error_y=error_bars(
                group["accuracy"], group["accuracy_low"], group["accuracy_high"], color
            ),
            mode="markers",
            marker={"size": 10, "color": color, "symbol": symbol},
            name=name,
            legendgroup=name,
            showlegend=row == col == 1,
            text=escape_labels(group["variant"]),
            hovertemplate="%{text}: %{y:.1%} at %{x:,.4g}<extra></extra>",
            row=row,
            col=col,
        )
    figure.update_xaxes(title_text=_COSTS[cost], **log_axis(runs[cost]), row=row, col=col)
    figure.update_yaxes(tickformat=PERCENT)
    figure.update_yaxes(title_text="accuracy", col=1)
