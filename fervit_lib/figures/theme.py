"""The look of every figure, and what all of them need."""

import math
from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go
import plotly.io

# Okabe and Ito (2008): told apart with any colour vision. Yellow, faint on white, comes last.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#555555", "#F0E442")
INK, FAINT, BAND = "#222222", "#E4E4E4", "#F3F3F3"
PERCENT = ".2~%"  # of axes: no digit more than ticks need, for a range of a few points has ticks between whole ones
# plotly's own buttons, few: the others are in the way on a phone, and one sends the data to a server of theirs.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {
    "gridcolor": FAINT,
    "linecolor": "#999999",
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 10},
}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 13, "color": INK},
        "title": {
            "font": {"size": 15, "weight": 600},
            "subtitle": {"font": {"size": 12, "color": "#555555"}},
            **{"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 12}},
            **{"y": 1, "yref": "container", "yanchor": "top", "pad": {"l": 12, "t": 14}},
        },
        "colorway": PALETTE,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 12, "r": 16, "t": 84, "b": 12},
        "height": 400,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "xanchor": "left",
            "yanchor": "bottom",
            "title": {"text": ""},
        },
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"font": {"family": _FONT}},
        "separators": ".,",
    }
)


def use_theme() -> None:
    """Make this look plotly's default, and let notebooks store figures as data, which `report.write_page` shows."""
    plotly.io.templates["fervit"] = _TEMPLATE
    plotly.io.templates.default = "fervit"
    plotly.io.renderers.default = "plotly_mimetype"
    plotly.io.renderers["plotly_mimetype"].config = CONFIG


def require(fits: bool, argument: str, expected: str, came: object) -> None:
    if not fits:
        raise ValueError(f"{argument}: expected {expected}, got {came}")


def require_columns(argument: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in frame]
    require(
        not missing, argument, f"columns {', '.join(columns)}", f"none named {', '.join(missing)}"
    )
    require(len(frame) > 0, argument, "at least one row", "an empty table")


def new_figure(title: str, subtitle: str = "", height: int = 400, **layout: object) -> go.Figure:
    # Height goes into the figure and width does not: pages are as wide as the reader's screen.
    title_text = {"text": title, "subtitle": {"text": subtitle}}
    return go.Figure(
        layout={"template": _TEMPLATE, "title": title_text, "height": height, **layout}
    )


def log_ticks(values: Iterable[float]) -> dict[str, object]:
    """Of an axis of `values` above 0, logarithmic: ticks at 1, 2 and 5 times a power of ten, written out."""
    shown = [value for value in values if value > 0]
    low, high = min(shown, default=1.0) / 1.6, max(shown, default=1.0) * 1.6
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [
        factor * 10.0**power
        for power in powers
        for factor in factors
        if low <= factor * 10.0**power <= high
    ]
    return {"type": "log", "tickvals": ticks, "tickformat": "~s" if high >= 1000 else "~g"}


def escape_labels(names: Iterable[object]) -> list[str]:
    """Names as plotly shall show them: it would read `<b>` as markup."""
    return [escape(str(name), quote=False) for name in names]
