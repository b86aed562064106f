"""Figures and tables of distillation: data in, figure out."""

import pandas as pd
import plotly.graph_objects as go
from pandas.io.formats.style import Styler
from plotly.subplots import make_subplots

from fervit_lib.figures.theme import PALETTE, PERCENT, escape_labels, new_figure, require_columns

_SHOWN = {
    "miou": "mIoU",
    "fg_iou": "foreground IoU",
    "fg_iou_per_image": "IoU per image",
    "boundary_iou": "boundary IoU",
    "teacher_agreement": "agreement with the teacher",
}


def table_of_arms(table: pd.DataFrame) -> Styler:
    """A row an arm, each score with its 95% interval; `table` as `distillation.interval_table`."""
    require_columns("table", table, ["arm", "seeds", *_SHOWN])
    shown = pd.DataFrame(
        {"trained with": table["arm"].str.replace("_", " "), "seeds": table["seeds"]}
    )
    for name, label in _SHOWN.items():
        spans = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        shown[label] = [f"{value:.1%} ({low:.1%} – {high:.1%})" for value, low, high in spans]
    return shown.style.hide().set_properties(
        ["trained with"], **{"text-align": "left", "white-space": "nowrap"}
    )


def table_of_kinds(table: pd.DataFrame) -> Styler:
    """Accuracy by kind of distillation; `table` as `distillation.accuracy_table`."""
    require_columns("table", table, ["arm", "seeds", "accuracy", "low", "high", "mirrored"])
    forms = dict.fromkeys(("accuracy", "low", "high", "mirrored"), "{:.1%}")
    return table.style.hide().format(forms).set_properties(["arm"], **{"text-align": "left"})


def table_of_sizes(sizes: pd.DataFrame) -> Styler:
    """A row a model and runtime, and how many times as fast it is as the first model in each runtime.

    Bold compares like with like: the same runtime on both sides. `sizes` as `evaluation.measure_segmenters`.
    """
    forms = {"parameters": "{:,}", "gmac": "{:.2f}", "megabytes": "{:.1f}", "ms": "{:.1f}"}
    require_columns("sizes", sizes, ["model", "runtime", *forms])
    shown, first = sizes[["model", "runtime", *forms]].copy(), sizes["model"].iloc[0]
    ratios = {}
    for runtime, ms in sizes.loc[sizes["model"] == first, ["runtime", "ms"]].itertuples(
        index=False
    ):
        ratios[f"× {first} in {runtime}"] = runtime
        shown[f"× {first} in {runtime}"] = ms / sizes["ms"]
    styler = shown.style.hide().format(forms | dict.fromkeys(ratios, "{:.2f}"))
    for name, runtime in ratios.items():
        styler.set_properties(
            pd.IndexSlice[sizes["runtime"] == runtime, [name]], **{"font-weight": "bold"}
        )
    return styler.set_properties(["model", "runtime"], **{"text-align": "left"})


def plot_differences(pairs: pd.DataFrame, seeds: int, images: int) -> go.Figure:
    """What each term buys: differences in foreground IoU with their 95% intervals; `pairs` as `interval_table`."""
    require_columns("pairs", pairs, ["what", "difference", "low", "high"])
    pairs = pairs.iloc[::-1]
    figure = new_figure(
        "What each term buys, in foreground IoU",
        f"95% intervals over {seeds} seed{'s'[: seeds != 1]} and {images} test images; one that holds 0 shows nothing",
        height=170 + 40 * len(pairs),
        xaxis={"title": "difference, points", "ticksuffix": ""},
    )
    high, low = pairs["high"] - pairs["difference"], pairs["difference"] - pairs["low"]
    figure.add_scatter(
        x=100 * pairs["difference"], y=escape_labels(pairs["what"].str.replace("_", " ")), mode="markers",
        marker={"size": 10}, error_x={"array": 100 * high, "arrayminus": 100 * low, "thickness": 2, "width": 5},
        hovertemplate="%{y}: %{x:.1f} points<extra></extra>",
    )  # fmt: skip
    figure.add_vline(0, line_dash="dash", line_color="#777777")
    return figure


def plot_arm_curves(
    curves: pd.DataFrame, scores: tuple[str, ...] = ("fg_iou", "boundary_iou", "teacher_agreement")
) -> go.Figure:
    """Scores on the validation split over the epochs: a colour an arm, a line the mean over its seeds.

    Args:
        curves: arm, seed, epoch and `scores`, a row an epoch of a fit.
    """
    return _curves(curves, scores, "Scores on the validation split", PERCENT)


def plot_term_curves(curves: pd.DataFrame) -> go.Figure:
    """Every term of the loss on the validation split, before it is weighed; `curves` as `plot_arm_curves`."""
    terms = tuple(name for name in curves if name.endswith("_term") and curves[name].notna().any())
    return _curves(curves, terms, "Terms of the loss on the validation split", None)


def _curves(
    curves: pd.DataFrame, names: tuple[str, ...], title: str, tickformat: str | None
) -> go.Figure:
    require_columns("curves", curves, ["arm", "seed", "epoch", *names])
    labels = [name.removesuffix("_term").replace("_", " ").replace("iou", "IoU") for name in names]
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=labels, horizontal_spacing=0.06)
    for number, (arm, group) in enumerate(curves.groupby("arm", sort=False)):
        means = group.groupby("epoch")[list(names)].mean()
        for column, name in enumerate(names, 1):
            figure.add_scatter(
                x=means.index + 1, y=means[name], name=escape_labels([arm.replace("_", " ")])[0], legendgroup=arm,
                showlegend=column == 1, line_color=PALETTE[number % 8], row=1, col=column,
                mode="lines" if len(means) > 1 else "markers",
            )  # fmt: skip
    seeds = curves["seed"].nunique()
    figure.update_layout(
        new_figure(title, f"mean of {seeds} seed{'s'[: seeds != 1]}", 360, margin_t=120).layout
    )
    figure.update_layout(legend={"y": 1.1})
    few = (
        {"tick0": 1, "dtick": 1} if curves["epoch"].max() < 8 else {}
    )  # else plotly marks halves of epochs
    figure.update_xaxes(title_text="epoch", tickformat="d", **few)
    figure.update_yaxes(tickformat=tickformat)
    return figure
