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
    "total_parameters": "parameters",
    "macs": "MACs per face",
    "train_seconds": "training time (s)",
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
        runs: columns approach, strategy, variant, num_test, accuracy, accuracy_low, accuracy_high,
            trainable_parameters.
    """
    figure = new_panels(
        "Accuracy against trained parameters", f"n = {_faces_of(runs)}, one dot per run", 440, 74
    )
    _add_cost(figure, runs, "trainable_parameters", "trained parameters")
    return figure


def plot_costs(runs: pd.DataFrame) -> go.Figure:
    """Accuracy against each measured cost, one panel per cost; markers as by parameters.

    Args:
        runs: as for `plot_accuracy_by_parameters`, machine ("busy" while a run was timed: its dots
            are hollow), and the costs; a cost without any value is left out.
    """
    costs = [name for name in _COSTS if name in runs and runs[name].notna().any()]
    rows = -(-len(costs) // 2)
    busy = (runs["machine"] == "busy").sum()
    figure = new_panels(
        "Accuracy against cost",
        f"n = {_faces_of(runs)}, one run per recipe; further left is better, throughput: right; "
        f"hollow: machine busy while timed ({busy} of {len(runs)})",
        160 + 230 * rows,
        margin_t=74,
        rows=rows,
        cols=2,
        shared_yaxes="all",
        vertical_spacing=0.36 / rows,
        horizontal_spacing=0.04,
    )
    for number, cost in enumerate(costs):
        _add_cost(figure, runs, cost, _COSTS[cost], number // 2 + 1, number % 2 + 1)
    return figure


def _faces_of(runs: pd.DataFrame) -> str:
    return f"{runs['num_test'].iloc[0]:,} test faces, 95% interval over them"


def _add_cost(
    figure: go.Figure, runs: pd.DataFrame, cost: str, title: str, row: int = 1, col: int = 1
) -> None:
    """Fill one panel; the first one has the legend."""
    approaches = list(runs["approach"].unique())
    strategies = list(runs["strategy"].unique())
    for (approach, strategy), group in runs.groupby(["approach", "strategy"], sort=False):
        name = f"{approach} {strategy}"
        color = PALETTE[approaches.index(approach) % 8]
        symbols = SYMBOLS[strategies.index(strategy) % 8]
        if "machine" in group:
            symbols = symbols + group["machine"].map({"": "", "busy": "-open"})
        figure.add_scatter(
            x=group[cost],
            y=group["accuracy"],
            error_y=error_bars(
                group["accuracy"], group["accuracy_low"], group["accuracy_high"], color
            ),
            mode="markers",
            marker={"size": 10, "color": color, "symbol": symbols},
            name=name,
            legendgroup=name,
            showlegend=row == col == 1,
            text=escape_labels(group["variant"]),
            hovertemplate="%{text}: %{y:.1%} at %{x:,.4g}<extra></extra>",
            row=row,
            col=col,
        )
    figure.update_xaxes(title_text=title, **log_axis(runs[cost]), row=row, col=col)
    figure.update_yaxes(tickformat=PERCENT)
    figure.update_yaxes(title_text="accuracy", col=1)
