"""Accuracy against cost: parameters, operations, time, memory, energy."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.theme import (
    PALETTE,
    PERCENT,
    SYMBOLS,
    error_bars,
    escape_label,
    escape_labels,
    log_axis,
    new_panels,
)

_COSTS = {  # column: axis title
    "trainable_parameters": "trained parameters",
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


def plot_costs(runs: pd.DataFrame, costs: Sequence[str] = tuple(_COSTS)) -> go.Figure:
    """Accuracy with 95% CI against each cost, one panel each; shape: strategy, colour: the rest.

    Args:
        runs: columns recipe, strategy, variant, num_test, accuracy, accuracy_low, accuracy_high,
            the costs (one without any value is left out), and, of measured runs, machine ("busy"
            while a run was timed: its dots are hollow).
    """
    shown = [name for name in costs if name in runs and runs[name].notna().any()]
    rows = -(-len(shown) // 2)
    hollow = "; hollow: machine busy while timed" if "machine" in runs else ""
    figure = new_panels(
        f"Accuracy against {'cost' if len(shown) > 1 else _COSTS[shown[0]]}",
        f"n = {runs['num_test'].iloc[0]:,} test faces, 95% interval over them{hollow}",
        160 + 230 * rows,
        rows=rows,
        cols=min(2, len(shown)),
        shared_yaxes="all",
        vertical_spacing=0.36 / rows,
        horizontal_spacing=0.04,
    )
    for number, cost in enumerate(shown):
        panel = {"row": number // 2 + 1, "col": number % 2 + 1}
        _add_cost(figure, runs, cost, **panel, showlegend=number == 0)
        figure.update_xaxes(title_text=_COSTS[cost], **log_axis(runs[cost]), **panel)
    figure.update_yaxes(tickformat=PERCENT)
    figure.update_yaxes(title_text="accuracy", col=1)
    return figure


def _add_cost(figure: go.Figure, runs: pd.DataFrame, cost: str, **trace: Any) -> None:
    """Add the dots of one panel."""
    strategies = list(runs["strategy"].unique())
    models: list[str] = []  # a recipe without its strategy, as hybrid-pretrained=mae
    for (name, strategy), group in runs.groupby(["recipe", "strategy"], sort=False):
        model = name.replace(f"-{strategy}", "", 1)
        if model not in models:
            models.append(model)
        color = PALETTE[models.index(model) % 8]
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
            name=escape_label(name),
            legendgroup=name,
            text=escape_labels(group["variant"]),
            hovertemplate="%{text}: %{y:.1%} at %{x:,.4g}<extra></extra>",
            **trace,
        )
