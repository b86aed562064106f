"""Accuracy against cost, with fewer training faces, and on corrupted test faces."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.theme import (
    PALETTE,
    PERCENT,
    SYMBOLS,
    add_to_panel,
    error_bars,
    escape_labels,
    largest_error,
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
    )
    strategies = list(runs["strategy"].unique())
    for number, cost in enumerate(shown):
        panel = {"row": number // 2 + 1, "col": number % 2 + 1}
        models = []  # a recipe without its strategy, as hybrid-pretrained=mae
        for (name, strategy), group in runs.groupby(["recipe", "strategy"], sort=False):
            model = name.replace(f"-{strategy}", "", 1)
            if model not in models:
                models.append(model)
            color = PALETTE[models.index(model) % 8]
            symbols = SYMBOLS[strategies.index(strategy) % 8]
            if "machine" in group:
                symbols = symbols + group["machine"].map({"": "", "busy": "-open"})
            add_to_panel(
                figure,
                name,
                **panel,
                x=group[cost],
                y=group["accuracy"],
                error_y=error_bars(
                    group["accuracy"], group["accuracy_low"], group["accuracy_high"], color
                ),
                mode="markers",
                marker={"size": 10, "color": color, "symbol": symbols},
                text=escape_labels(group["variant"]),
                hovertemplate="%{text}: %{y:.1%} at %{x:,.4g}<extra></extra>",
            )
        figure.update_xaxes(title_text=_COSTS[cost], **log_axis(runs[cost]), **panel)
    figure.update_yaxes(title_text="accuracy", tickformat=PERCENT, col=1)
    return figure


_SHARES = {
    "fraction": "share of the training faces; below: faces seen in all epochs",
    "shots": "training faces per class; below: faces seen in all epochs",
}


def plot_learning_curves(curves: pd.DataFrame) -> go.Figure:
    """Accuracy by the share of the training faces, and by training faces per class.

    Args:
        curves: columns recipe, kind (fraction or shots), share, faces, runs, seen_faces, mean, low,
            high, from `evaluation.learning_curves`. The ticks show `seen_faces`, as a curve over
            runs of different length compares lengths as well as numbers of faces.
    """
    recipes = list(curves["recipe"].unique())
    kinds = [kind for kind in _SHARES if (curves["kind"] == kind).any()]
    figure = new_panels(
        "Accuracy with fewer training faces",
        f"runs per point: {_range(curves['runs'])}; bars: one SD over seeds and draws, "
        "or with one run the 95% interval over the test faces",
        470,
        cols=len(kinds),
        shared_yaxes=True,
    )
    for (recipe, kind), line in curves.groupby(["recipe", "kind"], sort=False):
        line = line.sort_values("share")
        color = PALETTE[recipes.index(recipe) % 8]
        add_to_panel(
            figure,
            recipe,
            col=kinds.index(kind) + 1,
            x=line["share"],
            y=line["mean"],
            error_y=error_bars(line["mean"], line["low"], line["high"], color),
            mode="lines+markers",
            line_color=color,
            customdata=line[["faces", "runs"]],
            hovertemplate="%{y:.1%}, %{customdata[0]:,} faces, n = %{customdata[1]} runs",
        )
    for column, kind in enumerate(kinds, 1):
        by_share = curves[curves["kind"] == kind].groupby("share")["seen_faces"]
        ticks = [
            (f"{share:g}" if kind == "shots" else f"{share:.1%}".replace(".0%", "%"))
            + f"<br>{_range(seen)}"
            for share, seen in by_share
        ]
        axis = {"title": _SHARES[kind], "tickvals": list(by_share.groups), "ticktext": ticks}
        figure.update_xaxes(type="log", **axis, row=1, col=column)
    figure.update_yaxes(title_text="accuracy", tickformat=PERCENT, col=1)
    return figure


def _range(values: pd.Series) -> str:
    ends = sorted({int(values.min()), int(values.max())})
    return " – ".join(f"{end:,}" for end in ends)


def plot_corruptions(table: pd.DataFrame, num_faces: int) -> go.Figure:
    """Accuracy by strength of each corruption, one panel per corruption, one line per run.

    Args:
        table: columns run, corruption, level (0 none, to 3 strongest), accuracy, from
            `evaluation.evaluate_corruptions`.
    """
    is_clean = table["corruption"] == "none"
    clean = table[is_clean].set_index("run")["accuracy"]
    corrupted = table[~is_clean]
    means = corrupted.groupby(["run", "level"], sort=False, as_index=False)["accuracy"].mean()
    corrupted = pd.concat([corrupted, means.assign(corruption="mean")])
    panels = list(corrupted["corruption"].unique())
    rows = -(-len(panels) // 3)
    figure = new_panels(
        "Accuracy under corruptions",
        f"level 0: unchanged, 3: strongest; n = {num_faces} faces, {largest_error(num_faces)}",
        150 + 200 * rows + 22 * len(clean),
        rows=rows,
        cols=3,
        shared_yaxes="all",
        subplot_titles=panels,
        vertical_spacing=0.3 / rows,
    )
    for panel, corruption in enumerate(panels):
        for number, run in enumerate(clean.index):
            line = corrupted[(corrupted["run"] == run) & (corrupted["corruption"] == corruption)]
            line = line.sort_values("level")
            dash = ("solid", "dot", "dash")[number // 8 % 3]
            add_to_panel(
                figure,
                run,
                row=panel // 3 + 1,
                col=panel % 3 + 1,
                x=[0, *line["level"]],
                y=[clean[run], *line["accuracy"]],
                mode="lines+markers",
                line={"color": PALETTE[number % 8], "dash": dash, "width": 1.5},
                marker_size=5,
                hovertemplate="%{y:.1%}",
            )
    figure.update_xaxes(tickvals=[0, 1, 2, 3])
    figure.update_xaxes(title_text="level", row=rows)
    figure.update_yaxes(title_text="accuracy", tickformat=PERCENT, col=1)
    return figure
