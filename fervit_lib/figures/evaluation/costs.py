"""Accuracy against what it costs: parameters, operations, time, memory, training faces; and what harm leaves of it."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fervit_lib.figures.theme import (
    PALETTE,
    PERCENT,
    escape_labels,
    log_ticks,
    new_figure,
    require_columns,
)

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
_COSTS = {  # column, title of its panel
    "trainable_parameters": "trained parameters",
    "total_parameters": "parameters",
    "macs": "MACs a face",
    "checkpoint_mb": "checkpoint, MB",
    "train_seconds": "training, s",
    "seconds_per_epoch": "an epoch, s",
    "latency_p50_ms": "latency of the model, ms",
    "whole_p50_ms": "from file to label, ms",
    "throughput": "faces a second",
    "host_memory_gb": "memory in use, GB",
    "gpu_memory_gb": "memory of the GPU, GB",
    "joules_per_face": "energy, J a face",
}


def plot_accuracy_by_parameters(runs: pd.DataFrame) -> go.Figure:
    """Accuracy against the number of trained parameters (logarithmic); approach by colour, strategy by shape.

    Args:
        runs: columns approach, strategy, variant, accuracy, accuracy_low, accuracy_high, trainable_parameters.
    """
    needed = [
        "approach",
        "strategy",
        "variant",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "trainable_parameters",
    ]
    require_columns("runs", runs, needed)
    approaches, strategies = list(runs["approach"].unique()), list(runs["strategy"].unique())
    figure = new_figure(
        "Accuracy against trained parameters", "95% intervals over the test faces", height=440, margin_t=110,
        xaxis={"title": "trained parameters", **log_ticks(runs["trainable_parameters"])},
        yaxis={"title": "accuracy", "tickformat": PERCENT},
    )  # fmt: skip
    for (approach, strategy), group in runs.groupby(["approach", "strategy"], sort=False):
        low, high = (
            group["accuracy"] - group["accuracy_low"],
            group["accuracy_high"] - group["accuracy"],
        )
        color = PALETTE[approaches.index(approach) % 8]
        figure.add_scatter(
            x=group["trainable_parameters"], y=group["accuracy"], name=f"{approach} {strategy}", mode="markers",
            marker={"size": 11, "color": color, "symbol": SYMBOLS[strategies.index(strategy) % 6]},
            error_y={"array": high, "arrayminus": low, "color": color, "thickness": 1.5},
            text=escape_labels(group["variant"]), hovertemplate="%{text}: %{y:.1%}, %{x:,} parameters<extra></extra>",
        )  # fmt: skip
    return figure


def plot_costs(runs: pd.DataFrame) -> go.Figure:
    """Accuracy against each cost that was measured, a panel each (logarithmic); colours and shapes as by parameters.

    Args:
        runs: columns approach, strategy, variant, accuracy, and of the costs those there are.
    """
    require_columns("runs", runs, ["approach", "strategy", "variant", "accuracy"])
    costs = {
        name: title for name, title in _COSTS.items() if name in runs and runs[name].notna().any()
    }
    require_columns("runs", runs, list(costs) or ["trainable_parameters"])
    approaches, strategies = list(runs["approach"].unique()), list(runs["strategy"].unique())
    columns, rows = 2, -(-len(costs) // 2)
    figure = make_subplots(
        rows, columns, shared_yaxes=True, vertical_spacing=0.36 / rows, horizontal_spacing=0.04
    )
    for number, (cost, title) in enumerate(costs.items()):
        row, column = number // columns + 1, number % columns + 1
        for (approach, strategy), group in runs.groupby(["approach", "strategy"], sort=False):
            name = f"{approach} {strategy}"
            color, symbol = (
                PALETTE[approaches.index(approach) % 8],
                SYMBOLS[strategies.index(strategy) % 6],
            )
            figure.add_scatter(
                x=group[cost], y=group["accuracy"], name=name, legendgroup=name, showlegend=number == 0,
                mode="markers", marker={"size": 10, "color": color, "symbol": symbol},
                text=escape_labels(group["variant"]),
                hovertemplate="%{text}: %{y:.1%} at %{x:,.4g}<extra></extra>", row=row, col=column,
            )  # fmt: skip
        figure.update_xaxes(title_text=title, **log_ticks(runs[cost].dropna()), row=row, col=column)
    subtitle = "one run of each recipe; higher and further left is better, but for faces a second"
    lines = -(-len(runs.groupby(["approach", "strategy"])) // 5)
    layout = new_figure(
        "Accuracy against cost", subtitle, 100 + 22 * lines + 230 * rows, margin_t=74 + 22 * lines
    ).layout
    figure.update_layout(layout)
    figure.update_yaxes(tickformat=PERCENT)
    figure.update_yaxes(title_text="accuracy", col=1)
    return figure


def plot_learning_curves(curves: pd.DataFrame) -> go.Figure:
    """Accuracy over the share of the training faces (left) and over faces per class (right), with bands.

    Args:
        curves: columns recipe, kind (fraction or shots), share, faces, runs, mean, low, high, as
            `evaluation.learning_curves` gives them.
    """
    require_columns(
        "curves", curves, ["recipe", "kind", "share", "faces", "runs", "mean", "low", "high"]
    )
    titles = {"fraction": "share of the training faces", "shots": "faces of each class"}
    kinds = [kind for kind in titles if (curves["kind"] == kind).any()]
    figure = make_subplots(1, len(kinds), shared_yaxes=True, horizontal_spacing=0.04)
    shown = set()
    for (recipe, kind), line in curves.groupby(["recipe", "kind"], sort=False):
        line, column = line.sort_values("share"), kinds.index(kind) + 1
        color = PALETTE[list(curves["recipe"].unique()).index(recipe) % 8]
        name = escape_labels([recipe])[0]
        figure.add_scatter(
            x=[*line["share"], *line["share"][::-1]], y=[*line["high"], *line["low"][::-1]], fill="toself",
            fillcolor=color, opacity=0.18, line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False,
            legendgroup=name, row=1, col=column,
        )  # fmt: skip
        figure.add_scatter(
            x=line["share"], y=line["mean"], mode="lines+markers", line={"color": color}, name=name, legendgroup=name,
            showlegend=name not in shown, customdata=line[["faces", "runs"]], row=1, col=column,
            hovertemplate="%{y:.1%} on %{customdata[0]:,} faces, %{customdata[1]} runs<extra>" + name + "</extra>",
        )  # fmt: skip
        shown.add(name)
        figure.update_xaxes(title_text=titles[kind], type="log", row=1, col=column)
        figure.update_xaxes(
            tickvals=sorted(curves.loc[curves["kind"] == kind, "share"].unique()), row=1, col=column
        )
    if "fraction" in kinds:
        figure.update_xaxes(tickformat=PERCENT, row=1, col=1)
    subtitle = "bands: one standard deviation over seeds and draws; of a single run, 95% over the test faces"
    lines = -(-len(shown) // 4)
    layout = new_figure(
        "Accuracy on fewer training faces", subtitle, 400 + 22 * lines, margin_t=74 + 22 * lines
    ).layout
    figure.update_layout(layout)
    figure.update_yaxes(tickformat=PERCENT)
    figure.update_yaxes(title_text="accuracy", col=1)
    return figure


def plot_corruptions(table: pd.DataFrame) -> go.Figure:
    """Accuracy under each corruption, a panel each, from none (0) to the strongest (3); a line a run.

    Args:
        table: columns run, corruption, level, accuracy, as `evaluation.evaluate_corruptions` gives them.
    """
    require_columns("table", table, ["run", "corruption", "level", "accuracy"])
    harmed = table[table["corruption"] != "none"]
    means = (
        harmed.groupby(["run", "level"], sort=False, as_index=False)["accuracy"]
        .mean()
        .assign(corruption="mean")
    )
    table = pd.concat([table, means])
    kinds = [name for name in table["corruption"].unique() if name != "none"]
    runs, columns = list(table["run"].unique()), 3
    rows = -(-len(kinds) // columns)
    figure = make_subplots(
        rows,
        columns,
        shared_yaxes=True,
        subplot_titles=kinds,
        vertical_spacing=0.3 / rows,
        horizontal_spacing=0.03,
    )
    clean = table[table["corruption"] == "none"].set_index("run")["accuracy"]
    for number, kind in enumerate(kinds):
        for place, run in enumerate(runs):
            line = table[(table["run"] == run) & (table["corruption"] == kind)].sort_values("level")
            name, dash = escape_labels([run])[0], ("solid", "dot", "dash")[place // 8 % 3]
            figure.add_scatter(
                x=[0, *line["level"]], y=[clean[run], *line["accuracy"]], mode="lines+markers", name=name,
                line={"color": PALETTE[place % 8], "dash": dash, "width": 1.5}, marker={"size": 5}, legendgroup=name,
                showlegend=number == 0, hovertemplate="%{y:.1%}<extra>" + name + "</extra>",
                row=number // columns + 1, col=number % columns + 1,
            )  # fmt: skip
    lines = -(-len(runs) // 3)
    layout = new_figure(
        "Accuracy under corruptions", "0: as they are, 3: strongest", 110 + 22 * lines + 200 * rows
    )
    figure.update_layout(layout.layout, margin_t=96 + 22 * lines)
    figure.update_layout(legend={"y": 1 + 28 / (200 * rows)})
    figure.update_xaxes(tickvals=[0, 1, 2, 3])
    figure.update_yaxes(tickformat=PERCENT)
    return figure
