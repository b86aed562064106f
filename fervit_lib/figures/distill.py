"""Figures and tables of distillation. An arm is one of the compared combinations of loss terms."""

import pandas as pd
import plotly.graph_objects as go
from pandas.io.formats.style import Styler

from fervit_lib.figures.tables import Column, style_table
from fervit_lib.figures.theme import (
    GREY,
    PALETTE,
    PERCENT,
    add_to_panel,
    column_label,
    epoch_axis,
    error_bars,
    escape_labels,
    new_figure,
    new_panels,
)

_SCORES = ("miou", "fg_iou", "fg_iou_per_image", "boundary_iou", "teacher_agreement")


def table_of_scores(table: pd.DataFrame) -> Styler:
    """Segmentation scores with 95% CI, one row per arm; from `distillation.interval_table`."""
    shown = table[["seeds"]].assign(arm=table["arm"].str.replace("_", " "))
    for name in _SCORES:
        intervals = 100 * table[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        shown[name] = [f"{value:.1f} ({low:.1f}–{high:.1f})" for value, low, high in intervals]
    columns = {"arm": "trained with", "seeds": "seeds"}
    columns |= {name: f"{column_label(name)} in % (95% CI)" for name in _SCORES}
    return style_table(shown, columns)


def table_of_sizes(sizes: pd.DataFrame) -> Styler:
    """Size and latency, one row per model and runtime, with the speed-up over the first model.

    The speed-up compares the same runtime. `sizes` from `evaluation.measure_segmenters`.
    """
    columns: dict[str, Column] = {
        "model": "model",
        "runtime": "runtime",
        "parameters": "parameters",
        "gmac": ("GMACs", "{:.2f}"),
        "megabytes": ("size (MB)", "{:.1f}"),
        "ms": ("latency (ms)", "{:.1f}"),
        "speedup": (f"speed-up over {sizes['model'].iloc[0]}", "{:.2f}"),
    }
    return style_table(sizes, columns)


def plot_differences(pairs: pd.DataFrame, seeds: int, images: int) -> go.Figure:
    """Differences in foreground IoU with 95% CI; `pairs` from `distillation.interval_table`."""
    pairs = pairs.iloc[::-1]  # plotly draws the first at the bottom
    points = 100 * pairs[["difference", "low", "high"]]
    over = f"n = {images} test images"
    over += f" and {seeds} seeds" if seeds > 1 else "; one seed, whose chance it does not contain"
    figure = new_figure(
        "Effect of loss terms on foreground IoU",
        f"95% CI over {over}; no effect is shown where it contains 0",
        170 + 40 * len(pairs),
        xaxis_title="difference (points)",
    )
    figure.add_scatter(
        x=points["difference"],
        y=escape_labels(pairs["what"].str.replace("_", " ")),
        mode="markers",
        marker_size=10,
        error_x=error_bars(points["difference"], points["low"], points["high"]),
        hovertemplate="%{y}: %{x:.1f} points<extra></extra>",
    )
    figure.add_vline(0, line_dash="dash", line_color=GREY)
    return figure


def plot_arm_curves(curves: pd.DataFrame) -> go.Figure:
    """Validation scores by epoch: one colour per arm, each line the mean over its seeds.

    Args:
        curves: columns arm, seed, epoch, fg_iou, boundary_iou and teacher_agreement; one row per
            epoch of a run.
    """
    scores = ("fg_iou", "boundary_iou", "teacher_agreement")
    figure = _plot_curves(curves, scores, "Validation scores by epoch")
    figure.update_yaxes(tickformat=PERCENT)
    return figure


def plot_term_curves(curves: pd.DataFrame) -> go.Figure:
    """Unweighted validation loss terms by epoch; `curves` as in `plot_arm_curves`."""
    terms = tuple(name for name in curves if name.endswith("_term") and curves[name].notna().any())
    return _plot_curves(curves, terms, "Unweighted validation losses by epoch")


def _plot_curves(curves: pd.DataFrame, names: tuple[str, ...], title: str) -> go.Figure:
    labels = [column_label(name.removesuffix("_term")) for name in names]
    figure = new_panels(
        title,
        f"mean over seeds, n = {curves['seed'].nunique()}",
        400,
        cols=len(names),
        subplot_titles=labels,
    )
    for number, (arm, group) in enumerate(curves.groupby("arm", sort=False)):
        means = group.groupby("epoch")[list(names)].mean()
        for column, name in enumerate(names, 1):
            add_to_panel(
                figure,
                arm.replace("_", " "),
                col=column,
                x=means.index + 1,
                y=means[name],
                mode="lines" if len(means) > 1 else "markers",
                line_color=PALETTE[number % 8],
            )
    figure.update_xaxes(epoch_axis(curves["epoch"]))
    return figure
