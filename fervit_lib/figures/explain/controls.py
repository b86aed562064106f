"""Colours of the explorer's figures, and menus and sliders that live in a figure: a page keeps them with no kernel."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from fervit_lib.figures.theme import BAND, PALETTE
from fervit_lib.latents import BANDS, NUM_LAYERS

# Lightness rises evenly in both: read alike with any colour vision, and in grey.
SEQUENTIAL = [
    [0, "#F7FBFF"],
    [0.25, "#C6DBEF"],
    [0.5, "#6BAED6"],
    [0.75, "#2171B5"],
    [1, "#08306B"],
]
DIVERGING = [[0, "#B35806"], [0.5, "#F7F7F7"], [1, "#0B3C7D"]]
LAYERS = [str(layer) for layer in range(NUM_LAYERS)]
FILLS = dict(zip(BANDS, (BAND, "#E6EFF5", BAND), strict=True))
BAND_COLORS = dict(zip(BANDS, (PALETTE[0], PALETTE[1], PALETTE[2]), strict=True))


def shade_bands(figure: go.Figure, offset: float = 0, name_them: bool = True, **place: Any) -> None:
    """Coarse, middle and fine behind layers 0 to 17, which lie from `offset` on along x."""
    for band, layers in BANDS.items():
        first, last = layers.start + offset - 0.5, layers.stop + offset - 0.5
        figure.add_vrect(first, last, fillcolor=FILLS[band], layer="below", line_width=0, **place)
        if name_them:
            text = {
                "text": band,
                "x": (first + last) / 2,
                "y": 1,
                "yref": "y domain",
                "yanchor": "bottom",
            }
            figure.add_annotation(showarrow=False, font={"color": "#555555", "size": 12}, **text)


def add_menu(
    figure: go.Figure, labels: Sequence[str], args: Sequence[list], x: float = 1, y: float = 1
) -> None:
    """A drop-down list above the figure's right end; `args` as plotly's `update` takes them."""
    buttons = [
        {"label": label, "method": "update", "args": a}
        for label, a in zip(labels, args, strict=True)
    ]
    menu = {
        "buttons": buttons,
        "x": x,
        "xanchor": "right",
        "y": y,
        "yanchor": "bottom",
        "pad": {"b": 24},
    }
    figure.update_layout(updatemenus=[*figure.layout.updatemenus, {**menu, "bgcolor": "white"}])


def add_slider(
    figure: go.Figure, name: str, labels: Sequence[str], args: Sequence[list], **place: Any
) -> None:
    """A slider under the figure; `args` as plotly's `update` takes them."""
    steps = [
        {"label": label, "method": "update", "args": a}
        for label, a in zip(labels, args, strict=True)
    ]
    slider = {
        "steps": steps,
        "currentvalue": {"prefix": f"{name} ", "font": {"size": 13}},
        "active": 0,
    }
    slider |= {"pad": {"t": 44, "b": 4}, "tickwidth": 0, "minorticklen": 0, "ticklen": 0, **place}
    figure.update_layout(sliders=[*figure.layout.sliders, slider])
