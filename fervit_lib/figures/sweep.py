"""Figures of a sweep: Optuna's, in this project's look, and what a model costs."""

from collections.abc import Sequence

import optuna
import optuna.visualization as views
import pandas as pd
import plotly.graph_objects as go
from optuna.trial import TrialState
from pandas.io.formats.style import Styler
from plotly.subplots import make_subplots

from fervit_lib.figures.theme import PALETTE, PERCENT, escape_labels, new_figure, require_columns

MIN_TRIALS = 4  # whole ones, below which a figure over parameters says nothing
_COSTS = {
    "train_seconds": "training time, s",
    "peak_memory_gb": "peak memory, GB",
    "total_parameters": "parameters",
}
_MODEL = ("approach", "model_name")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "x", "pentagon")


_COLUMNS = {  # of a leaderboard, beside the parameters searched: name there, heading and format
    "variant": ("trial", "{}"),
    "state": ("state", "{}"),
    "model": ("model", "{}"),
    "val_accuracy": ("accuracy", "{:.1%}"),
    "epochs": ("epochs", "{:.0f}"),
    "train_seconds": ("seconds", "{:,.0f}"),
    "peak_memory_gb": ("GB", "{:.1f}"),
    "total_parameters": ("parameters", "{:,.0f}"),
    "size_mb": ("MB", "{:.1f}"),
}


def table_of_trials(table: pd.DataFrame, searched: Sequence[str], metric: str) -> Styler:
    """A row a trial: how it ended, its parameters, how well it reads, and what it cost; see `sweep.leaderboard`."""
    require_columns("table", table, [*_COLUMNS, *searched, metric])
    names = list(_COLUMNS)
    shown = {name: _COLUMNS[name] for name in names[:3]}
    # The model's column says what these two say together.
    shown |= {
        name: (name, "{:.2g}" if table[name].dtype == float else "{}")
        for name in searched
        if name not in _MODEL
    }
    shown |= {metric: (_plain(metric), "{:.3f}")} | {name: _COLUMNS[name] for name in names[3:]}
    if metric == "accuracy":
        del shown["val_accuracy"]
    named = table[list(shown)].set_axis([heading for heading, _ in shown.values()], axis=1)
    left = {"text-align": "left", "white-space": "nowrap"}
    styled = (
        named.style.hide()
        .format(dict(shown.values()), na_rep="", escape="html")
        .set_properties(["trial", "state", "model"], **left)
    )
    heads = [
        {"selector": f"th.col{column}", "props": [("text-align", "left")]} for column in range(3)
    ]
    return styled.set_table_styles(heads)


def plot_costs(table: pd.DataFrame, metric: str, fronts: dict[str, pd.Series]) -> go.Figure:
    """The metric against what each trial cost, a panel a cost, and the line of those that no other trial beats.

    Args:
        table: a leaderboard: columns variant, model, state, the metric and the costs.
        fronts: for each cost, (rows,) bool: which rows are on the front.
    """
    require_columns("table", table, ["variant", "model", "state", metric, *fronts])
    figure = make_subplots(cols=len(fronts), shared_yaxes=True, horizontal_spacing=0.04)
    models = list(table["model"].unique())
    for column, (cost, front) in enumerate(fronts.items(), 1):
        best = table[front].sort_values(cost)
        figure.add_scatter(
            x=best[cost], y=best[metric], mode="lines", line={"color": "#777777", "shape": "hv", "dash": "dot"},
            name="best for its cost", legendgroup="front", showlegend=column == 1, hoverinfo="skip", row=1, col=column,
        )  # fmt: skip
        for number, model in enumerate(models):
            rows = table[table["model"] == model]
            figure.add_scatter(
                x=rows[cost], y=rows[metric], mode="markers", name=escape_labels([model])[0], legendgroup=model,
                showlegend=column == 1, row=1, col=column, text=escape_labels(rows["variant"] + ", " + rows["state"]),
                hovertemplate="%{text}<br>%{y:.3f} at %{x:.3s}<extra></extra>",
                marker={"size": 11, "color": PALETTE[number % 8], "symbol": _SYMBOLS[number % 8]},
            )  # fmt: skip
        figure.update_xaxes(
            type="log", title_text=_COSTS.get(cost, cost), dtick="D2", row=1, col=column
        )
    subtitle = (
        "Up and to the left is better; the dotted line joins the trials that no other beats in both"
    )
    figure.update_layout(
        new_figure(f"{_plain(metric)} against cost", subtitle, 440, margin_t=120).layout
    )
    figure.update_yaxes(title_text=_plain(metric), col=1)
    return figure


def plot_progress(study: optuna.Study, metric: str) -> list[go.Figure]:
    """How the search went: the best value so far, and every trial's epochs, those stopped early too."""
    history = views.plot_optimization_history(study, target_name=_plain(metric))
    epochs = views.plot_intermediate_values(study)
    epochs.update_layout(xaxis_title="epoch", yaxis_title=_plain(metric), xaxis_dtick=1)
    return [
        _restyle(history, "The search", "Each dot a trial; the line is the best so far"),
        _restyle(
            epochs,
            "Trials, epoch by epoch",
            "A line that ends early is a trial that hyperband stopped",
        ),
    ]


def plot_parameters(study: optuna.Study, metric: str) -> list[go.Figure]:
    """Parallel coordinates, importance, slices, and contours of the three parameters that matter most.

    An empty list where fewer than `MIN_TRIALS` trials trained to their end: nothing can be said of parameters then.
    """
    whole = [
        trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE
    ]
    if len(whole) < MIN_TRIALS:
        return []
    name = _plain(metric)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    top = list(importance)[:3]
    said = f"{len(whole)} trials that trained to their end"
    bars = new_figure(
        "Parameter importance",
        f"Share of the metric's variance (fANOVA) over {said}",
        180 + 40 * len(importance),
    )
    bars.add_bar(
        x=list(importance.values())[::-1], y=escape_labels(list(importance)[::-1]), orientation="h",
        hovertemplate="%{y}: %{x:.0%}<extra></extra>",
    )  # fmt: skip
    bars.update_xaxes(tickformat=PERCENT, rangemode="tozero")
    parallel = views.plot_parallel_coordinate(study, target_name=name)
    slices = views.plot_slice(study, target_name=name)
    figures = [
        _restyle(
            parallel,
            "Parallel coordinates",
            f"A line each of {said}; drag along an axis to choose among them",
            460,
        ),
        bars,
        _restyle(slices, "Slices", "Each trial at its value of each parameter; darker is later"),
    ]
    if len(top) > 1:
        contours = views.plot_contour(study, params=top, target_name=name)
        height = 460 if len(top) == 2 else 780
        figures.append(
            _restyle(
                contours,
                "Contours",
                f"Interpolated between {said}: where dots are sparse, a guess",
                height,
            )
        )
    return figures


def _restyle(figure: go.Figure, title: str, subtitle: str, height: int = 400) -> go.Figure:
    """Optuna's figure with this project's title, font and margins."""
    own = new_figure(title, subtitle, height).layout
    margin = {
        "t": 115,
        "r": 40,
    }  # the legend stands under the subtitle, and the last panel's labels stick out
    figure.update_layout(template=own.template, title=own.title, height=height, margin=margin)
    return figure


def _plain(metric: str) -> str:
    return metric.replace("_", " ").replace("f1", "F1").replace("roc auc", "ROC-AUC")
