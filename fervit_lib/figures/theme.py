"""The look of all figures, and the parts that many of them share."""

import importlib.util
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from fervit_lib.system.atomic import atomic_write

# Okabe and Ito (2008): distinguishable with any colour vision. Yellow is faint on white, so it
# comes last.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#555555", "#F0E442")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "x", "pentagon")
INK = "#222222"
GREY = "#777777"
# Lightness changes evenly in both: readable with any colour vision, and in grey.
SEQUENTIAL = [
    [0, "#F7FBFF"],
    [0.25, "#C6DBEF"],
    [0.5, "#6BAED6"],
    [0.75, "#2171B5"],
    [1, "#08306B"],
]
DIVERGING = [[0, "#B35806"], [0.5, "#F7F7F7"], [1, "#0B3C7D"]]
# Format of percent axes. A fixed number of digits would repeat labels on a range of a few points.
PERCENT = ".2~%"
# Only a few of plotly's buttons: the others are in the way on a phone, and one uploads the data to
# a server.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
}
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
        "legend": {
            "orientation": "h",
            "y": 1,
            "yanchor": "bottom",
        },
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"font": {"family": _FONT}},
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


def require_columns(argument: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise ValueError, naming `argument`, if a column is missing or the table is empty."""
    missing = [name for name in columns if name not in frame]
    expected = f"columns {', '.join(columns)}"
    require(not missing, argument, expected, f"none named {', '.join(missing)}")
    require(len(frame) > 0, argument, "at least one row", "an empty table")


def new_figure(title: str, subtitle: str = "", height: int = 400, **layout: Any) -> go.Figure:
    """An empty figure with this look.

    The height is part of the figure and the width is not: a page is as wide as the reader's screen.
    """
    title_text = {"text": title, "subtitle": {"text": subtitle}}
    return go.Figure(
        layout={"template": _TEMPLATE, "title": title_text, "height": height, **layout}
    )


def new_panels(
    title: str, subtitle: str = "", height: int = 400, margin_t: int = 110, **grid: Any
) -> go.Figure:
    """An empty figure of several panels; `grid` are the arguments of plotly's `make_subplots`."""
    figure = make_subplots(**grid)
    figure.update_layout(new_figure(title, subtitle, height, margin_t=margin_t).layout)
    return figure


def draw_as_matrix(figure: go.Figure) -> None:
    """Set the axes for heat maps: first row on top, labels as given, no grid lines."""
    figure.update_xaxes(type="category", showgrid=False, constrain="domain")
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")


def error_bars(value: Any, low: Any, high: Any, color: str | None = None) -> dict[str, Any]:
    """plotly's `error_x` or `error_y` for intervals from `low` to `high` around `value`."""
    offsets = {"array": high - value, "arrayminus": value - low}
    return {**offsets, "thickness": 1.5, "width": 4, "color": color}


def log_axis(values: pd.Series) -> dict[str, Any]:
    """A logarithmic axis for `values` > 0; thousands and millions as k and M."""
    return {
        "type": "log",
        # SI prefixes below 1,000 would write 0.5 as "500m".
        "tickformat": "~s" if values.max() >= 1000 else "~g",
        # Powers of ten on a long axis. On a short one, few ticks make plotly choose 1, 2, 5.
        "dtick": 1 if values.max() > 100 * values.min() else None,
        "nticks": 3,
    }


def epoch_axis(epochs: pd.Series) -> dict[str, Any]:
    """An axis of epochs counted from 1, with ticks at whole epochs."""
    # plotly would also put ticks at halves of few epochs.
    return {"title": "epoch", "tick0": 1, "dtick": int(epochs.max()) // 8 + 1}


def escape_label(name: object) -> str:
    """A name as plotly shows it literally; without this, plotly takes `<b>` for markup."""
    return escape(str(name), quote=False)


def escape_labels(names: Iterable[object]) -> list[str]:
    return [escape_label(name) for name in names]


def write_figure(figure: go.Figure, path: Path) -> list[Path]:
    """Write a page that needs no network, and a PNG beside it if kaleido is installed."""
    paths = [path]
    with atomic_write(path) as temporary:
        figure.write_html(temporary, include_plotlyjs=True, config=CONFIG)
    if importlib.util.find_spec("kaleido"):
        paths.append(path.with_suffix(".png"))
        with atomic_write(paths[1]) as temporary:
            figure.write_image(temporary, format="png", width=1000, scale=2)
    return paths
