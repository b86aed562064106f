"""Whether confidences can be believed, before and after temperature scaling."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.evaluation.menus import add_run_menu
from fervit_lib.figures.theme import (
    PALETTE,
    PERCENT,
    escape_labels,
    new_figure,
    require,
    require_columns,
)

_BEFORE, _AFTER = PALETTE[3], PALETTE[0]


def plot_reliability(bins: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> go.Figure:
    """Accuracy over confidence, before and after temperature scaling; a larger dot is more faces, the line is ideal.

    Args:
        bins: by run, two tables as `evaluation.reliability` gives them: columns confidence, accuracy, faces.
    """
    require(len(bins) > 0, "bins", "at least one run", "none")
    axis = {"range": [0, 1.02], "tickformat": PERCENT}
    figure = new_figure(
        "Reliability", height=500, margin_t=128, xaxis={"title": "confidence"} | axis,
        yaxis={"title": "accuracy"} | axis,
    )  # fmt: skip
    subtitles = {}
    for run, pair in bins.items():
        for name, table, color in zip(("before", "after"), pair, (_BEFORE, _AFTER), strict=True):
            require_columns("bins", table, ["confidence", "accuracy", "faces"])
            sizes = 5 + 20 * (table["faces"] / table["faces"].max()) ** 0.5
            figure.add_scatter(
                x=table["confidence"], y=table["accuracy"], name=name, mode="lines+markers", customdata=table["faces"],
                line={"color": color, "width": 1.5}, marker={"size": sizes, "color": color, "opacity": 0.75},
                hovertemplate="confidence %{x:.1%}, accuracy %{y:.1%}, %{customdata} faces<extra>" + name + "</extra>",
            )  # fmt: skip
        gaps = [
            ((t["confidence"] - t["accuracy"]).abs() * t["faces"]).sum() / t["faces"].sum()
            for t in pair
        ]
        subtitles[run] = f"{escape_labels([run])[0]}: ECE {gaps[0]:.1%} before, {gaps[1]:.1%} after"
    ideal = {"color": "#777777", "dash": "dash", "width": 1}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=ideal, name="ideal", hoverinfo="skip")
    figure.update_layout(legend={"x": 1, "xanchor": "right", "y": 1.02})
    add_run_menu(figure, subtitles, 2, shared=1)
    return figure


def plot_calibration(runs: pd.DataFrame) -> go.Figure:
    """ECE of each run before and after temperature scaling.

    Args:
        runs: columns variant, ece, ece_calibrated.
    """
    require_columns("runs", runs, ["variant", "ece", "ece_calibrated"])
    runs = runs[::-1]  # the first on top
    names = escape_labels(runs["variant"])
    figure = new_figure(
        "Expected calibration error", "15 bins; temperature fitted on val, shown on test", 170 + 30 * len(runs),
        margin_t=100, xaxis={"title": "ECE", "tickformat": PERCENT, "rangemode": "tozero"},
        yaxis={"type": "category", "range": [-0.6, len(runs) - 0.4]},
    )  # fmt: skip
    for name, left, right in zip(names, runs["ece"], runs["ece_calibrated"], strict=True):
        figure.add_shape(
            type="line", x0=left, x1=right, y0=name, y1=name, line={"color": "#BBBBBB", "width": 2}
        )
    for label, column, color in (("before", "ece", _BEFORE), ("after", "ece_calibrated", _AFTER)):
        figure.add_scatter(
            x=runs[column], y=names, mode="markers", name=label, marker={"size": 10, "color": color},
            hovertemplate="%{y}: %{x:.1%}<extra>" + label + "</extra>",
        )  # fmt: skip
    return figure
