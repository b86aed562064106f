"""Figures of a hyper-parameter search: Optuna's own, restyled, and scores against costs."""

from collections.abc import Mapping, Sequence

import optuna
import optuna.visualization as views
import pandas as pd
import plotly.graph_objects as go
from optuna.trial import TrialState
from pandas.io.formats.style import Styler

from fervit_lib.figures.tables import Column, style_table
from fervit_lib.figures.theme import (
    GREY,
    PALETTE,
    SYMBOLS,
    add_to_panel,
    column_label,
    epoch_axis,
    escape_labels,
    log_axis,
    new_figure,
    new_panels,
)

MIN_TRIALS = 4  # complete trials needed for figures over parameters
_COSTS = {
    "train_seconds": "training time (s)",
    "peak_memory_gb": "peak memory (GB)",
    "total_parameters": "parameters",
}


def table_of_trials(table: pd.DataFrame, searched: Sequence[str], metric: str) -> Styler:
    """One row per trial: its state, searched parameters, scores and costs.

    Args:
        table: from `sweep.leaderboard`.
        searched: names of the searched parameters.
        metric: the score that was optimised.
    """
    columns: dict[str, Column] = {"variant": "trial", "state": "state", "model": "model"}
    for name in searched:
        if name not in ("approach", "model_name"):  # the column `model` shows both
            columns[name] = (name, "{:.2g}" if table[name].dtype == float else "{}")
    columns[metric] = column_label(metric)
    if metric != "accuracy":
        columns["val_accuracy"] = ("validation accuracy", "{:.1%}")
    columns |= {
        "epochs": ("epochs", "{:.0f}"),
        "train_seconds": ("training time (s)", "{:,.0f}"),
        "peak_memory_gb": ("peak memory (GB)", "{:.1f}"),
        "total_parameters": ("parameters", "{:,.0f}"),
    }
    return style_table(table, columns)


def plot_costs(table: pd.DataFrame, metric: str, fronts: Mapping[str, pd.Series]) -> go.Figure:
    """The metric against the costs of each trial, one panel per cost, with the Pareto front.

    Args:
        table: a leaderboard: columns variant, model, state, the metric and the costs.
        fronts: per cost, (rows,) bool: True for the rows on the Pareto front.
    """
    figure = new_panels(
        "Validation score against cost",
        f"n = {len(table)} trials, one seed each; dotted: Pareto front, no trial is better in both",
        460,
        cols=len(fronts),
        shared_yaxes=True,
    )
    for column, (cost, front) in enumerate(fronts.items(), 1):
        best = table[front].sort_values(cost)
        add_to_panel(
            figure,
            "Pareto front",
            col=column,
            x=best[cost],
            y=best[metric],
            mode="lines",
            line={"color": GREY, "shape": "hv", "dash": "dot"},
            hoverinfo="skip",
        )
        for number, (model, rows) in enumerate(table.groupby("model", sort=False)):
            add_to_panel(
                figure,
                model,
                col=column,
                x=rows[cost],
                y=rows[metric],
                mode="markers",
                marker={"size": 11, "color": PALETTE[number % 8], "symbol": SYMBOLS[number % 8]},
                text=escape_labels(rows["variant"] + ", " + rows["state"]),
                hovertemplate="%{text}<br>%{y:.3f} at %{x:.3s}<extra></extra>",
            )
        axis = log_axis(table[cost])
        figure.update_xaxes(title_text=_COSTS.get(cost, cost), **axis, row=1, col=column)
    figure.update_yaxes(title_text=column_label(metric), col=1)
    return figure


def plot_progress(study: optuna.Study, metric: str) -> list[go.Figure]:
    """The best value so far by trial, and the values of every trial by epoch."""
    history = views.plot_optimization_history(study, target_name=column_label(metric))
    epochs = views.plot_intermediate_values(study)
    trials = study.get_trials(deepcopy=False)
    history.update_xaxes(title="trial", dtick=len(trials) // 12 + 1)
    last = pd.Series([trial.last_step or 1 for trial in trials])
    epochs.update_layout(xaxis=epoch_axis(last - 1), yaxis_title=column_label(metric))
    n = f"n = {len(trials)} trials, one seed each"
    return [
        _restyle(history, "Search history", f"{n}; line: best so far"),
        _restyle(epochs, "Trials by epoch", f"{n}; a line that ends early: stopped", 470),
    ]


def plot_parameters(study: optuna.Study, metric: str) -> list[go.Figure]:
    """Parallel coordinates, importance and slices of the parameters.

    An empty list if fewer than `MIN_TRIALS` trials completed: too few for conclusions.
    """
    num_complete = len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
    if num_complete < MIN_TRIALS:
        return []
    name = column_label(metric)
    n = f"n = {num_complete} complete trials"
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importance = views.plot_param_importances(study, evaluator=evaluator, target_name=name)
    importance.update_layout(xaxis_title="share of the variance", yaxis_title="parameter")
    parallel = views.plot_parallel_coordinate(study, target_name=name)
    slices = views.plot_slice(study, target_name=name)
    return [
        _restyle(
            parallel, "Parallel coordinates", f"{n}; drag along an axis to select trials", 460
        ),
        _restyle(importance, "Parameter importance", f"fANOVA, {n}"),
        _restyle(slices, "Slices", "one dot per trial; darker: later"),
    ]


def _restyle(figure: go.Figure, title: str, subtitle: str, height: int = 400) -> go.Figure:
    """Give Optuna's figure this project's title, font and margins."""
    own = new_figure(title, subtitle, height).layout
    figure.update_layout(
        template=own.template, title=own.title, height=height, margin={"t": 90, "r": 40}
    )
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(dtick=1, selector={"type": "log"})  # else 2 and 5 without their power of ten
    return figure
