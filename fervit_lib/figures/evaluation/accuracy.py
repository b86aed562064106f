"""How often the runs are right, where they err, and whether they differ."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.evaluation.menus import MENU, add_run_menu
from fervit_lib.figures.theme import (
    PALETTE,
    PERCENT,
    escape_labels,
    new_figure,
    require,
    require_columns,
)

_WHITE_TO_BLUE = [[0, "#F4F8FB"], [1, PALETTE[0]]]
_ORANGE_TO_BLUE = [[0, PALETTE[3]], [0.5, "#FFFFFF"], [1, PALETTE[0]]]


def plot_accuracy_intervals(runs: pd.DataFrame, majority: float) -> go.Figure:
    """A dot a run with its 95% interval, the best on top; a dashed line where guessing the majority class is.

    Args:
        runs: columns variant, accuracy, accuracy_low, accuracy_high, as fractions.
        majority: share of the most common class among the test faces, 0 to 1.
    """
    require_columns("runs", runs, ["variant", "accuracy", "accuracy_low", "accuracy_high"])
    require(0 <= majority <= 1, "majority", "a share in [0, 1]", majority)
    runs = runs.sort_values("accuracy")
    left = max(0.0, min(majority, runs["accuracy_low"].min()) - 0.04)
    right = min(1.0, max(majority, runs["accuracy_high"].max()) + 0.04)
    figure = new_figure(
        "Accuracy on the test split",
        "95% intervals over the test faces",
        height=160 + 30 * len(runs),
        margin_t=90,
        xaxis={"tickformat": PERCENT, "title": "accuracy", "range": [left, right]},
        yaxis={"type": "category", "range": [-0.6, len(runs) - 0.4]},
    )
    low, high = runs["accuracy"] - runs["accuracy_low"], runs["accuracy_high"] - runs["accuracy"]
    figure.add_scatter(
        x=runs["accuracy"], y=escape_labels(runs["variant"]), mode="markers", marker={"size": 10},
        error_x={"array": high, "arrayminus": low, "thickness": 2, "width": 5},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )  # fmt: skip
    label = {
        "annotation_text": f"majority class {majority:.1%}",
        "annotation_font_color": "#555555",
    }
    figure.add_vline(
        majority, line_dash="dash", line_color="#777777", annotation_position="top right", **label
    )
    return figure


def plot_pairs(pairs: pd.DataFrame) -> go.Figure:
    """Difference of accuracy of every two runs, row less column, in points; only those beyond luck are written.

    Args:
        pairs: columns a, b, difference, p_holm, as `evaluation.compare_pairs` gives them.
    """
    require_columns("pairs", pairs, ["a", "b", "difference", "p_holm"])
    runs = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    points, p = np.zeros((len(runs), len(runs))), np.ones((len(runs), len(runs)))
    for pair in pairs.itertuples():
        i, j = runs.index(pair.a), runs.index(pair.b)
        points[i, j], points[j, i] = 100 * pair.difference, -100 * pair.difference
        p[i, j] = p[j, i] = pair.p_holm
    texts = [
        [f"{d:+.1f}" if q < 0.05 else "" for d, q in zip(*row, strict=True)]
        for row in zip(points, p, strict=True)
    ]
    figure = new_figure(
        "Row better than column, points",
        f"written where p &lt; 0.05: exact McNemar test on the same faces, Holm's correction for {len(pairs)} pairs",
        height=130 + 30 * max(3, len(runs)),
        margin_t=90,
        xaxis={"type": "category", "showgrid": False, "side": "top", "tickangle": 0},
        yaxis={"autorange": "reversed", "showgrid": False},
    )
    largest = max(1.0, np.abs(points).max())
    numbers = [str(number) for number in range(1, len(runs) + 1)]
    names = escape_labels([f"{run} ({number})" for number, run in zip(numbers, runs, strict=True)])
    figure.add_heatmap(
        z=points, x=numbers, y=names, text=texts, texttemplate="%{text}", showscale=False, customdata=p,
        xgap=1, ygap=1, colorscale=_ORANGE_TO_BLUE, zmin=-largest, zmax=largest,
        hovertemplate="%{y} less %{x}: %{z:+.1f} points, p = %{customdata:.3g}<extra></extra>",
    )  # fmt: skip
    return figure


def plot_confusion(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> go.Figure:
    """Confusion matrices, true classes down, predicted across; menus choose the run, and counts or shares of a row.

    Args:
        matrices: (C, C) counts by run. Colour is the share of the true class; a class without faces stays empty.
    """
    require(len(matrices) > 0, "matrices", "at least one run", "none")
    figure = new_figure(
        "Confusion of true and predicted",
        height=190 + 46 * max(4, len(classes)),
        margin_t=112,
        xaxis={"title": "predicted", "constrain": "domain", "showgrid": False},
        # the first class on top, and square cells
        yaxis={
            "title": "true",
            "autorange": "reversed",
            "scaleanchor": "x",
            "constrain": "domain",
            "showgrid": False,
        },
    )
    names, subtitles, counts, percents = escape_labels(classes), {}, [], []
    for run, given in matrices.items():
        matrix = np.asarray(given)
        require(
            matrix.shape == (len(classes),) * 2,
            "matrices",
            f"shape {(len(classes),) * 2}",
            matrix.shape,
        )
        total = matrix.sum(axis=1, keepdims=True)
        share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
        counts.append([[f"{v:,}" for v in row] for row in matrix])
        rows = zip(share, total[:, 0], strict=True)
        percents.append([[f"{v:.0%}" if n else "–" for v in row] for row, n in rows])
        accuracy = f", accuracy {np.trace(matrix) / matrix.sum():.1%}" if matrix.sum() else ""
        subtitles[run] = f"{escape_labels([run])[0]}: n = {matrix.sum():,}{accuracy}"
        figure.add_heatmap(
            z=share, x=names, y=names, text=counts[-1], texttemplate="%{text}", showscale=False, xgap=1, ygap=1,
            colorscale=_WHITE_TO_BLUE, zmin=0, zmax=1, customdata=matrix,
            hovertemplate="true %{y}, predicted %{x}: %{customdata:,} faces, %{z:.1%} of the row<extra></extra>",
        )  # fmt: skip
    add_run_menu(figure, subtitles, 1)
    choices = {"faces": counts, "% of the true class": percents}
    buttons = [
        {"label": name, "method": "restyle", "args": [{"text": texts}]}
        for name, texts in choices.items()
    ]
    unit = (
        {"buttons": buttons, "type": "buttons", "direction": "right"}
        | MENU
        | {"x": 1, "xanchor": "right"}
    )
    figure.update_layout(updatemenus=[*figure.layout.updatemenus, unit])
    return figure


def plot_class_metrics(tables: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Grouped bars: precision, recall and F1 of each class (rows); `support` is written under the class's name."""
    require(len(tables) > 0, "tables", "at least one run", "none")
    figure = new_figure(
        "Precision, recall and F1 by class",
        height=440,
        margin_t=128,
        yaxis={"range": [0, 1.02], "tickformat": PERCENT},
    )
    subtitles = {}
    for run, metrics in tables.items():
        require_columns("metrics", metrics, ["precision", "recall", "f1", "support"])
        pairs = zip(escape_labels(metrics.index), metrics["support"], strict=True)
        names = [f"{name}<br>n={support:,.0f}" for name, support in pairs]
        for number, (column, label) in enumerate(
            {"precision": "precision", "recall": "recall", "f1": "F1"}.items()
        ):
            figure.add_bar(x=names, y=metrics[column], name=label, marker_color=PALETTE[number])
            figure.data[-1].hovertemplate = "%{x}: %{y:.1%}"
        subtitles[run] = escape_labels([run])[0]
    figure.update_layout(legend={"x": 1, "xanchor": "right", "y": 1.02})
    add_run_menu(figure, subtitles, 3)
    return figure


def plot_class_heatmap(scores: pd.DataFrame, title: str) -> go.Figure:
    """A score of each class (column) and run (row), written into the cells; blue is 1."""
    require(
        scores.size > 0, "scores", "at least one run and class", f"a table of shape {scores.shape}"
    )
    x, y = {"showgrid": False, "side": "top"}, {"showgrid": False, "autorange": "reversed"}
    figure = new_figure(title, height=120 + 30 * max(3, len(scores)), margin_t=84, xaxis=x, yaxis=y)
    figure.add_heatmap(
        z=scores, x=escape_labels(scores.columns), y=escape_labels(scores.index),
        texttemplate="%{z:.2f}", showscale=False,
        xgap=1, ygap=1, colorscale=_WHITE_TO_BLUE, zmin=0, zmax=1, hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
    )  # fmt: skip
    return figure


def plot_confidence(confidences: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Histograms of the confidence of right and of wrong predictions.

    Args:
        confidences: by run, columns confidence in [0, 1] and correct (bool), a row a face.
    """
    require(len(confidences) > 0, "confidences", "at least one run", "none")
    figure = new_figure(
        "Confidence, right and wrong", height=420, margin_t=128, barmode="stack", bargap=0.04,
        xaxis={"title": "confidence", "tickformat": PERCENT, "range": [0, 1]}, yaxis={"title": "faces"},
    )  # fmt: skip
    edges, subtitles = np.linspace(0, 1, 21), {}
    for run, table in confidences.items():
        require_columns("confidences", table, ["confidence", "correct"])
        means = {}
        for number, (name, right) in enumerate({"right": True, "wrong": False}.items()):
            chosen = table.loc[table["correct"] == right, "confidence"]
            means[name] = f"mean {chosen.mean():.0%} when {name}" if len(chosen) else f"none {name}"
            heights, color = np.histogram(chosen, edges)[0], (PALETTE[0], PALETTE[3])[number]
            figure.add_bar(
                x=edges[:-1] + 0.025, y=heights, width=0.05, name=name, marker_color=color
            )
            figure.data[-1].hovertemplate = "around %{x:.1%}: %{y:,} " + name + "<extra></extra>"
        subtitles[run] = f"{escape_labels([run])[0]}: {means['right']}, {means['wrong']}"
    figure.update_layout(legend={"x": 1, "xanchor": "right", "y": 1.02})
    add_run_menu(figure, subtitles, 2)
    return figure
