"""Calibration of the confidences, before and after temperature scaling."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.controls import add_run_menu
from fervit_lib.figures.theme import (
    GREY,
    PALETTE,
    PERCENT,
    escape_label,
    new_figure,
)

_COLORS = {"before": PALETTE[3], "after": PALETTE[0]}


def plot_reliability(bins: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> go.Figure:
    """Accuracy by confidence, before and after temperature scaling, with a menu of runs.

    Args:
        bins: by run, the tables before and after, from `evaluation.reliability`: columns
            confidence, accuracy, faces. A larger dot is more faces.
    """
    axis = {"range": [-0.03, 1.03], "tickformat": PERCENT, "dtick": 0.2}
    figure = new_figure(
        "Accuracy by confidence",
        height=500,
        margin_t=128,
        xaxis={"title": "confidence", **axis},
        yaxis={"title": "accuracy", **axis},
    )
    subtitles = {}
    for run, tables in bins.items():
        texts = []
        for (name, color), table in zip(_COLORS.items(), tables, strict=True):
            faces = table["faces"]
            gaps = (table["confidence"] - table["accuracy"]).abs()
            texts.append(f"{(gaps * faces).sum() / faces.sum():.1%} {name}")
            figure.add_scatter(
                x=table["confidence"],
                y=table["accuracy"],
                name=name,
                mode="lines+markers",
                line={"color": color, "width": 1.5},
                marker={"size": 5 + 20 * (faces / faces.max()) ** 0.5, "opacity": 0.75},
                customdata=faces,
                hovertemplate="confidence %{x:.1%}, accuracy %{y:.1%}, n = %{customdata} faces",
            )
        subtitles[run] = (
            f"{escape_label(run)}: n = {tables[0]['faces'].sum():,} faces, "
            f"ECE {', '.join(texts)} temperature scaling"
        )
    ideal = {"color": GREY, "dash": "dash", "width": 1}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=ideal, name="ideal", hoverinfo="skip")
    add_run_menu(figure, subtitles, 2, shared=1)
    return figure
