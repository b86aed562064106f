"""Accuracy of the runs, overall and per class, and where they differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.controls import add_menu, add_run_menu
from fervit_lib.figures.theme import (
    DIVERGING,
    GREY,
    MAX_CLASSES,
    PALETTE,
    PERCENT,
    draw_as_matrix,
    error_bars,
    escape_label,
    escape_labels,
    group_classes,
    group_confusion,
    largest_error,
    new_figure,
    require,
    rows_height,
    wrap_labels,
)

# Of a heat map of scores, whose cells are labelled.
_FROM_0_TO_1 = {"showscale": False, "zmin": 0, "zmax": 1}


def plot_accuracy_intervals(runs: pd.DataFrame, majority: float) -> go.Figure:
    """Accuracy of each run with its 95% CI, the best on top, and of the majority class.

    Args:
        runs: columns variant, num_test, accuracy, accuracy_low, accuracy_high, each in [0, 1], and
            interval_over, what the interval is over if not over faces.
        majority: share of the most common class among the test faces, in [0, 1].
    """
    runs = runs.sort_values("accuracy")
    left = max(0.0, min(majority, runs["accuracy_low"].min()) - 0.04)
    right = min(1.0, max(majority, runs["accuracy_high"].max()) + 0.04)
    names = wrap_labels(runs["variant"])
    over = runs.iloc[0].get("interval_over") or "the test faces"
    figure = new_figure(
        f"Accuracy on {runs['num_test'].iloc[0]:,} test faces",
        f"bars: 95% interval over {over}, not over training seeds; "
        f"dashed: majority class, {majority:.1%}",
        160 + rows_height(names),
        xaxis={"tickformat": PERCENT, "title": "accuracy", "range": [left, right]},
        yaxis={"type": "category", "range": [-0.6, len(runs) - 0.4]},
    )
    figure.add_scatter(
        x=runs["accuracy"],
        y=names,
        mode="markers",
        marker_size=10,
        error_x=error_bars(runs["accuracy"], runs["accuracy_low"], runs["accuracy_high"]),
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure.add_vline(majority, line_dash="dash", line_color=GREY)
    return figure


def plot_pairs(pairs: pd.DataFrame, num_faces: int) -> go.Figure:
    """Difference in accuracy of every two runs in points; numbers where it is significant.

    Args:
        pairs: columns a, b, difference, p_holm, from `evaluation.compare_pairs`.
    """
    runs = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    points = np.zeros((len(runs), len(runs)))
    p_values = np.ones_like(points)
    for pair in pairs.itertuples():
        row = runs.index(pair.a)
        column = runs.index(pair.b)
        points[row, column] = 100 * pair.difference
        points[column, row] = -100 * pair.difference
        p_values[[row, column], [column, row]] = pair.p_holm
    names = wrap_labels(f"{run} ({number})" for number, run in enumerate(runs, 1))
    figure = new_figure(
        "Difference in accuracy, row minus column",
        "percentage points, written if p &lt; 0.05: exact McNemar test on the same "
        f"{num_faces:,} faces, Holm's correction for {len(pairs)} pairs",
        130 + rows_height(names),
        margin_t=90,
    )
    # The same range to both sides, so that white is no difference.
    largest = max(1.0, np.abs(points).max())
    figure.add_heatmap(
        z=points,
        x=[str(number) for number in range(1, len(runs) + 1)],
        y=names,
        text=np.where(p_values < 0.05, np.char.mod("%+.1f", points), ""),
        texttemplate="%{text}",
        showscale=False,
        customdata=p_values,
        colorscale=DIVERGING,
        zmin=-largest,
        zmax=largest,
        hovertemplate="%{y} minus %{x}: %{z:+.1f} points, p = %{customdata:.3g}<extra></extra>",
    )
    draw_as_matrix(figure, side="top", tickangle=0)
    return figure


def plot_cross(cells: pd.DataFrame) -> go.Figure:
    """Accuracy of each run on each data set, with its 95% interval and number of faces.

    Args:
        cells: columns run, trained_on, tested_on, accuracy, accuracy_low, accuracy_high, num_test,
            num_classes, from `evaluation.cross_evaluate`. A cell without a score stays empty.
    """
    cells = cells.assign(
        name=cells["trained_on"] + ": " + cells["run"],
        accuracy=cells["accuracy"].astype(float),
        text=[_cell_text(cell) for cell in cells.itertuples()],
    )
    order = cells.sort_values("trained_on", kind="stable")["name"].unique()
    tested = cells["tested_on"].unique()
    table = cells.pivot(index="name", columns="tested_on")
    accuracy, texts = (table[name].loc[order, tested] for name in ("accuracy", "text"))
    names = wrap_labels(order)
    figure = new_figure(
        "Accuracy, trained on × tested on",
        "rows: data set and run; columns: test faces; 95% interval, on the classes that both have",
        150 + 2 * rows_height(names),
        margin_t=90,
    )
    figure.add_heatmap(
        z=accuracy,
        x=escape_labels(tested),
        y=names,
        text=texts,
        texttemplate="%{text}",
        **_FROM_0_TO_1,
        hovertemplate="%{y} on %{x}: %{text}<extra></extra>",
    )
    draw_as_matrix(figure, side="top", tickangle=0)
    return figure


def _cell_text(cell: Any) -> str:
    if pd.isna(cell.accuracy):
        return "–"
    interval = f"[{100 * cell.accuracy_low:.1f}, {100 * cell.accuracy_high:.1f}]"
    faces = f"n = {cell.num_test:,.0f}, {cell.num_classes:.0f} classes"
    return f"{cell.accuracy:.1%} {interval}<br>{faces}"


def plot_confusion(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> go.Figure:
    """Confusion matrices; menus choose the run, and counts or percentages of the true class.

    Args:
        matrices: by run, (C, C) counts: rows true labels, columns predicted labels. The row of a
            class without faces has no colour and no percentages.
    """
    shape = (len(classes), len(classes))
    first = next(iter(matrices.values()), np.zeros(shape))
    group, shown = group_classes(np.sum(first, axis=1), classes)
    figure = new_figure(
        "True and predicted labels", height=190 + 46 * max(4, len(shown)), margin_t=112
    )
    names = escape_labels(shown)
    subtitles = {}
    for run, counts in matrices.items():
        counts = np.asarray(counts)
        require(counts.shape == shape, "matrices", f"shape {shape}", counts.shape)
        num_faces = counts.sum()
        accuracy = np.trace(counts) / max(num_faces, 1)
        counts = group_confusion(counts, group)
        true_faces = counts.sum(axis=1, keepdims=True)
        figure.add_heatmap(
            # plotly leaves a cell with NaN empty
            z=counts / np.where(true_faces > 0, true_faces, np.nan),
            x=names,
            y=names,
            text=[[f"{count:,}" for count in row] for row in counts],
            texttemplate="%{text}",
            **_FROM_0_TO_1,
            hovertemplate="true %{y}, predicted %{x}: n = %{text}, %{z:.1%}<extra></extra>",
        )
        subtitles[run] = f"{escape_label(run)}: n = {num_faces:,} faces, accuracy {accuracy:.1%}"
    draw_as_matrix(figure, title="predicted label")
    figure.update_yaxes(title="true label", scaleanchor="x", constrain="domain")
    add_run_menu(figure, subtitles, 1)
    cells = {"faces": "%{text}", "% of the true class": "%{z:.0%}"}
    updates = [[{"texttemplate": template}] for template in cells.values()]
    buttons = {"type": "buttons", "direction": "right", "y": 1.02, "pad": {"b": 4}}
    add_menu(figure, cells, updates, **buttons)
    return figure


def plot_class_scores(
    scores: Mapping[str, pd.DataFrame],
    faces: Sequence[int],
    title: str = "Scores by run and class",
) -> go.Figure:
    """Scores in [0, 1] per run and class as a heat map; buttons choose the score.

    Args:
        scores: by score, one row per run and one column per class.
        faces: test faces of each class.
    """
    first = next(iter(scores.values()))
    lowest = first.mean().fillna(0).nsmallest(MAX_CLASSES).index
    shown = first.columns.isin(lowest)
    of_all = "" if shown.all() else f"; the lowest {MAX_CLASSES} of {len(shown):,} classes"
    scores = {name: table.loc[:, shown] for name, table in scores.items()}
    first = first.loc[:, shown]
    faces = np.array(faces)[shown]
    names = wrap_labels(first.index)
    figure = new_figure(
        title,
        f"n: test faces of a class; with n = {min(faces)}, {largest_error(min(faces))}{of_all}",
        190 + rows_height(names),
        margin_t=150,
    )
    classes = zip(escape_labels(first.columns), faces, strict=True)
    figure.add_heatmap(
        z=first,
        x=[f"{name}<br>n = {n:,}" for name, n in classes],
        y=names,
        texttemplate="%{z:.2f}",
        **_FROM_0_TO_1,
        hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
    )
    draw_as_matrix(figure, side="top")
    updates = [[{"z": [table.to_numpy()]}] for table in scores.values()]
    buttons = {"type": "buttons", "direction": "right", "x": 0, "xanchor": "left"}
    add_menu(figure, scores, updates, **buttons, pad={"b": 48})
    return figure


def plot_confidence(confidences: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Histograms of the confidence of correct and of wrong predictions, with a menu of runs.

    Args:
        confidences: by run, one row per face: confidence in [0, 1] and correct (bool).
    """
    figure = new_figure(
        "Confidence when correct and when wrong",
        height=420,
        margin_t=128,
        barmode="stack",
        bargap=0.04,
        xaxis={"title": "confidence", "tickformat": PERCENT, "range": [0, 1.02], "dtick": 0.2},
        yaxis_title="faces",
    )
    edges = np.linspace(0, 1, 21)  # 20 bins; plotly would choose others for each run
    subtitles = {}
    for run, table in confidences.items():
        texts = []
        for name, correct, color in (("correct", True, PALETTE[0]), ("wrong", False, PALETTE[3])):
            values = table.loc[table["correct"] == correct, "confidence"]
            mean = f", mean {values.mean():.0%}" if len(values) else ""
            texts.append(f"{name} n = {len(values):,}{mean}")
            figure.add_bar(
                x=edges[:-1] + 0.025,
                y=np.histogram(values, edges)[0],
                width=0.05,
                name=name,
                marker_color=color,
                hovertemplate="around %{x:.1%}: %{y:,} " + name + "<extra></extra>",
            )
        subtitles[run] = f"{escape_label(run)}: {'; '.join(texts)}"
    add_run_menu(figure, subtitles, 2)
    return figure
