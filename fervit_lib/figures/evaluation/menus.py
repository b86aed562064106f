"""Choosing a run in a figure, and a figure as a file of its own."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

from fervit_lib.figures.theme import CONFIG, escape_labels
from fervit_lib.system.atomic import atomic_write

MENU = {
    "x": 0,
    "xanchor": "left",
    "y": 1.02,
    "yanchor": "bottom",
    "pad": {"l": 0, "b": 4},
    "showactive": True,
}


def add_run_menu(
    figure: go.Figure, subtitles: Mapping[str, str], per_run: int, shared: int = 0
) -> None:
    """A menu above the plot that shows the traces of one run; the first run's are shown at the start.

    Args:
        figure: first `per_run` traces for each run in the order of `subtitles`, then `shared` ones for all.
        subtitles: what is said under the title, by run.
    """
    runs = list(subtitles)
    for i, trace in enumerate(figure.data[: per_run * len(runs)]):
        trace.visible = i < per_run
    figure.layout.title.subtitle.text = subtitles[runs[0]]
    if len(runs) == 1:
        return
    buttons = []
    for number, name in enumerate(escape_labels(runs)):
        shown = [i // per_run == number for i in range(per_run * len(runs))] + [True] * shared
        update = [{"visible": shown}, {"title.subtitle.text": subtitles[runs[number]]}]
        buttons.append({"label": name, "method": "update", "args": update})
    figure.update_layout(updatemenus=[*figure.layout.updatemenus, {"buttons": buttons, **MENU}])


def write_figure(figure: go.Figure, path: Path) -> list[Path]:
    """Write an interactive page `path` that needs no network, and a PNG beside it where kaleido is installed."""
    written = [path]
    with atomic_write(path) as temporary:
        figure.write_html(temporary, include_plotlyjs=True, config=CONFIG)
    if importlib.util.find_spec("kaleido"):
        written.append(path.with_suffix(".png"))
        with atomic_write(written[1]) as temporary:
            figure.write_image(temporary, format="png", width=1000, scale=2)
    return written
