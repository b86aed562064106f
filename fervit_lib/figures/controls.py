"""Menus and sliders stored in the figure itself, so that they work on a page without a kernel."""

from collections.abc import Iterable, Mapping
from typing import Any

import plotly.graph_objects as go

from fervit_lib.figures.theme import escape_labels, require, shorten


def _steps(labels: Iterable[str], updates: Iterable[list]) -> list[dict]:
    return [
        {"label": label, "method": "update", "args": args}
        for label, args in zip(labels, updates, strict=True)
    ]


def add_menu(
    figure: go.Figure, labels: Iterable[str], updates: Iterable[list], **options: Any
) -> None:
    """Add a drop-down menu, by default above the right end of the plot.

    Args:
        labels: of the choices.
        updates: per choice, the arguments of plotly's `update`: changes of the traces, changes of
            the layout.
        options: plotly's attributes of a menu.
    """
    place = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 24}}
    menu = {"buttons": _steps(labels, updates), "bgcolor": "white", **place, **options}
    # Assigning a list would replace the menus that are there.
    figure.update_layout(updatemenus=[*figure.layout.updatemenus, menu])


def add_slider(
    figure: go.Figure, name: str, labels: Iterable[str], updates: Iterable[list], **place: Any
) -> None:
    """Add a slider under the plot; `labels` and `updates` as in `add_menu`."""
    slider = {
        "steps": _steps(labels, updates),
        "currentvalue": {"prefix": f"{name} ", "font": {"size": 13}},
        "pad": {"t": 56, "b": 4},
        "ticklen": 0,
        **place,
    }
    figure.update_layout(sliders=[*figure.layout.sliders, slider])


def add_run_menu(
    figure: go.Figure, subtitles: Mapping[str, str], per_run: int, shared: int = 0
) -> None:
    """Add a menu that shows the traces of one run, at the start those of the first.

    Args:
        figure: has `per_run` traces per run in the order of `subtitles`, then `shared` traces of
            all runs.
        subtitles: of the figure, by run.
    """
    require(len(subtitles) > 0, "runs", "at least one run", "none")
    # plotly shows and hides traces by one list of flags for the whole figure.
    num_traces = per_run * len(subtitles)
    updates: list[list[dict]] = []
    for number, subtitle in enumerate(subtitles.values()):
        visible = [i // per_run == number for i in range(num_traces)] + [True] * shared
        updates.append([{"visible": visible}, {"title.subtitle.text": subtitle}])
    for trace, visible in zip(figure.data, updates[0][0]["visible"], strict=True):
        trace.visible = visible
    figure.update_layout(title_subtitle_text=next(iter(subtitles.values())))
    if len(subtitles) > 1:
        labels = escape_labels(map(shorten, subtitles))
        add_menu(figure, labels, updates, x=0, xanchor="left", y=1.02, pad={"b": 4})
