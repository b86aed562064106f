"""The look of all figures, and the parts that many of them share."""

import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from fervit_lib.system.atomic import write_text

# Okabe and Ito (2008): distinguishable with any colour vision. Yellow is faint on white, so it
# comes last.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#555555", "#F0E442")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "x", "pentagon")
INK = "#222222"
GREY = "#777777"
# Lightness changes evenly in both: readable with any colour vision, and in grey.
SEQUENTIAL = ["#F7FBFF", "#C6DBEF", "#6BAED6", "#2171B5", "#08306B"]
DIVERGING = ["#B35806", "#F7F7F7", "#0B3C7D"]
# Format of percent axes. A fixed number of digits would repeat labels on a range of a few points.
PERCENT = ".2~%"
# Only a few of plotly's buttons: the others are in the way on a phone, and one uploads the data to
# a server.
CONFIG = {
    "displaylogo": False,
    "showSendToCloud": False,
    "responsive": True,
    "modeBarButtons": [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
}
MAX_CLASSES = 20  # that a figure shows; more have no place in a legend or on an axis
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {
    "gridcolor": "#E4E4E4",
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 10},
}
_TEMPLATE = go.layout.Template(
    data={"heatmap": [{"colorscale": SEQUENTIAL, "xgap": 1, "ygap": 1, "colorbar_thickness": 10}]},
    layout={
        "font": {"family": _FONT, "size": 13, "color": INK},
        "title": {
            "font": {"size": 15, "weight": 600},
            "subtitle": {"font": {"size": 12, "color": "#555555"}},
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "pad": {"l": 12, "t": 14},
        },
        "colorway": PALETTE,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 12, "r": 16, "t": 84, "b": 12},
        "height": 400,
        # At the lower end of the figure, where plotly makes room for as many lines as the names
        # need; above the plot, many or long names would cover the title.
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        },
        # Farther off than plotly's, else the zeros of both axes touch.
        "xaxis": {**_AXIS, "ticklabelstandoff": 5},
        "yaxis": _AXIS,
    },
)


def use_theme() -> None:
    """Make this look plotly's default, and store figures in notebooks as data for their pages."""
    plotly.io.templates["fervit"] = _TEMPLATE
    plotly.io.templates.default = "fervit"
    plotly.io.renderers.default = "plotly_mimetype"
    plotly.io.renderers["plotly_mimetype"].config = CONFIG


def require(condition: bool, argument: str, expected: str, got: object) -> None:
    """Raise ValueError, naming `argument`, if `condition` is false."""
    if not condition:
        raise ValueError(f"{argument}: expected {expected}, got {got}")


def group_classes(faces: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The `MAX_CLASSES` classes with most `faces` (C,), and one that stands for all others.

    Returns:
        By class, the number of its group, (C,), and the names of the groups.
    """
    shown = np.sort(np.argsort(-faces, kind="stable")[:MAX_CLASSES])
    group = np.full(len(classes), len(shown))
    group[shown] = np.arange(len(shown))
    names = [classes[number] for number in shown]
    if len(names) < len(classes):
        names.append(f"{len(classes) - len(names):,} others")
    return group, names


def group_confusion(counts: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Confusion counts (C, C) of classes as counts of their groups, see `group_classes`."""
    members = np.eye(group.max() + 1, dtype=int)[group]  # (C, groups)
    return members.T @ counts @ members


def new_figure(title: str, subtitle: str = "", height: int = 400, **layout: Any) -> go.Figure:
    """An empty figure with this look.

    The height is part of the figure and the width is not: a page is as wide as the reader's screen.
    """
    title_text = {"text": title, "subtitle": {"text": subtitle}}
    return go.Figure(
        layout={"template": _TEMPLATE, "title": title_text, "height": height, **layout}
    )


def new_panels(
    title: str, subtitle: str, height: int, margin_t: int = 92, **grid: Any
) -> go.Figure:
    """An empty figure of several panels; `grid` are the arguments of plotly's `make_subplots`."""
    spacing = {"horizontal_spacing": 0.05, "vertical_spacing": 0.08}
    return new_figure(title, subtitle, height, margin_t=margin_t).set_subplots(**spacing | grid)


def add_to_panel(figure: go.Figure, name: object, *, col: int, row: int = 1, **trace: Any) -> None:
    """Add a scatter trace to a panel; its name is in the legend once, for the traces of all panels.

    Args:
        trace: plotly's attributes of a scatter trace.
    """
    label = escape_label(name)
    in_legend = any(other.name == label for other in figure.data)
    trace |= {"name": label, "legendgroup": label, "showlegend": not in_legend}
    figure.add_scatter(**trace, row=row, col=col)


def draw_as_matrix(figure: go.Figure, **xaxis: Any) -> None:
    """Set the axes for heat maps: first row on top, labels as given, no grid lines.

    Args:
        xaxis: more of plotly's attributes of the axis of the columns.
    """
    figure.update_xaxes(type="category", showgrid=False, constrain="domain", **xaxis)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")


def error_bars(value: Any, low: Any, high: Any, color: str | None = None) -> dict:
    """plotly's `error_x` or `error_y` for intervals from `low` to `high` around `value`."""
    offsets = {"array": high - value, "arrayminus": value - low}
    return {**offsets, "thickness": 1.5, "width": 4, "color": color}


def largest_error(n: int) -> str:
    """How far a share of `n` faces may be from its true value by chance, in words."""
    # The normal approximation at 50%, where the interval is widest.
    return f"95% interval of a share: at most ±{98 / max(n, 1) ** 0.5:.1f} points"


def log_axis(values: pd.Series) -> dict:
    """An axis for `values` > 0: logarithmic if they differ by more than a factor of three.

    Thousands and millions are k and M.
    """
    low, high = values.min(), values.max()
    # SI prefixes below 1,000 would write 0.5 as "500m".
    tickformat = "~s" if high >= 1000 else "~g"
    if not high > 3 * low > 0:  # a short logarithmic axis may contain no tick
        return {"tickformat": tickformat, "nticks": 5}
    ends = np.log10([low / 1.4, 1.4 * high])
    exponents = np.arange(np.floor(ends[0]), np.ceil(ends[1]) + 1)
    ticks = np.outer(10.0**exponents, [1, 2, 5] if high < 50 * low else [1]).ravel()
    return {"type": "log", "range": ends, "tickvals": ticks, "tickformat": tickformat}


def epoch_axis(epochs: pd.Series) -> dict:
    """An axis of epochs counted from 1, with ticks at whole epochs, each once."""
    # plotly would also put ticks at halves of few epochs, and round their labels.
    return {"title": "epoch", "tick0": 1, "dtick": int(epochs.max()) // 8 + 1, "tickformat": "d"}


_LABELS = {
    "train_loss": "training loss",
    "valid_loss": "validation loss",
    "macro_f1": "macro-F1",
    "roc_auc": "ROC-AUC",
    "miou": "mIoU",
    "fg_iou": "foreground IoU",
    "fg_iou_per_image": "IoU per image",
}


def column_label(name: str) -> str:
    """The name of a column of scores as figures and tables write it."""
    return _LABELS.get(name, name.replace("_", " ").replace("iou", "IoU"))


def escape_label(name: object) -> str:
    """A name as plotly shows it literally; without this, plotly takes `<b>` for markup."""
    return escape(str(name), quote=False)


def escape_labels(names: Iterable) -> list[str]:
    return [escape_label(name) for name in names]


def wrap_labels(names: Iterable, width: int = 34) -> list[str]:
    """As `escape_labels`, in lines of at most `width` characters, for ticks and menus."""
    return ["<br>".join(escape_labels(textwrap.wrap(str(name), width))) for name in names]


def rows_height(labels: Iterable[str]) -> int:
    """Pixels for one row per label of `wrap_labels`."""
    lines = [label.count("<br>") + 1 for label in labels]
    return len(lines) * (8 + 17 * max(2, *lines))


def shorten(name: str) -> str:
    """`name` without its middle if it is longer than 44 characters, for menus of one line."""
    return name if len(name) <= 44 else f"{name[:21]}…{name[-21:]}"


def write_figure(figure: go.Figure, path: Path) -> Path:
    """Write a page that needs no network; the pages of a folder share its `plotly.min.js`."""
    script = path.with_name("plotly.min.js")
    # plotly's own way to share it keeps the script of an earlier version.
    write_text(script, get_plotlyjs())
    write_text(path, figure.to_html(include_plotlyjs=script.name, config=CONFIG))
    return path
