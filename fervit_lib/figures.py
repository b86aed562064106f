"""Data in, plotly figure (or picture) out, all in one look. Nothing here loads a model or acts when imported."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from PIL import Image, ImageDraw, ImageFont, ImageOps
from plotly.subplots import make_subplots

from fervit_lib.latents import BANDS

# Okabe and Ito (2008): told apart with any colour vision. Yellow, faint on white, comes last.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#555555", "#F0E442")
INK, FAINT, BAND = "#222222", "#E4E4E4", "#F3F3F3"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {"gridcolor": FAINT, "linecolor": "#999999", "zeroline": False, "automargin": True, "title": {"standoff": 10}}
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
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "xanchor": "left", "yanchor": "bottom", "title": {"text": ""}},
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


def _require(fits: bool, argument: str, expected: str, came: object) -> None:
    if not fits:
        raise ValueError(f"{argument}: expected {expected}, got {came}")


def _require_columns(argument: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in frame]
    _require(not missing, argument, f"columns {', '.join(columns)}", f"none named {', '.join(missing)}")
    _require(len(frame) > 0, argument, "at least one row", "an empty table")


def _figure(title: str, subtitle: str = "", height: int = 400, **layout: object) -> go.Figure:
    # Height goes into the figure and width does not: pages are as wide as the reader's screen.
    title_text = {"text": title, "subtitle": {"text": subtitle}}
    return go.Figure(layout={"template": _TEMPLATE, "title": title_text, "height": height, **layout})


def _labels(names: Sequence[object]) -> list[str]:
    """Names as plotly shall show them: it would read `<b>` as markup."""
    return [escape(str(name), quote=False) for name in names]


def plot_class_counts(counts: pd.DataFrame) -> go.Figure:
    """Bars of `counts`, a row a class and a column a split; a column `total` is left out."""
    _require(counts.size > 0, "counts", "at least one class and one split", f"a table of shape {counts.shape}")
    counts = counts.drop(columns="total", errors="ignore")
    totals = ", ".join(f"{escape(str(split))} {number:,}" for split, number in counts.sum().items())
    figure = _figure("Faces per class and split", totals, yaxis={"title": "faces", "tickformat": ","})
    for split in counts:
        hover = "%{x}: %{y:,}"
        figure.add_bar(x=_labels(counts.index), y=counts[split], name=escape(str(split)), hovertemplate=hover)
    return figure


def contact_sheet(
    images_by_class: Mapping[str, Sequence[Image.Image]], size: int = 64, columns: int = 10, title: str = "Examples"
) -> Image.Image:
    """A picture of pictures: a row a class with its name beside it, `columns` images a row, more rows if it has more.

    Args:
        images_by_class: pictures of any size and mode; each is fitted into a square.
        size: side of a square in pixels.
    """
    _require(len(images_by_class) > 0, "images_by_class", "at least one class", "none")
    _require(size > 0 and columns > 0, "size, columns", "at least 1", (size, columns))
    gap, font, heading = 4, ImageFont.load_default(14), ImageFont.load_default(17)
    left = max(round(font.getlength(name)) for name in images_by_class) + 20
    rows = {name: max(1, -(-len(images) // columns)) for name, images in images_by_class.items()}
    across = min(columns, max(1, *map(len, images_by_class.values()), 1))
    width = max(left + across * (size + gap), round(heading.getlength(title)) + 16)
    top = 32 if title else gap
    sheet = Image.new("RGB", (width + gap, top + sum(rows.values()) * (size + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 16), title, INK, heading, anchor="lm")
    for name, images in images_by_class.items():
        draw.text((8, top + size / 2), name, INK, font, anchor="lm")
        if not images:
            draw.text((left, top + size / 2), "none", "#777777", font, anchor="lm")
        for i, image in enumerate(images):
            tile = ImageOps.pad(image.convert("RGB"), (size, size), color="white")
            sheet.paste(tile, (left + i % columns * (size + gap), top + i // columns * (size + gap)))
        top += rows[name] * (size + gap)
    return sheet


def plot_training_curves(metrics: pd.DataFrame, title: str = "Training curves") -> go.Figure:
    """Losses above, every other score (if there is one) below, over the epochs.

    Args:
        metrics: as `metrics.csv`: epoch, train_loss, valid_loss, then scores (`seconds` is left out); a row an epoch.
    """
    losses = ["train_loss", "valid_loss"]
    _require_columns("metrics", metrics, ["epoch", *losses])
    scores = [name for name in metrics.select_dtypes("number") if name not in ("epoch", "seconds", *losses)]
    rows = 2 if scores else 1
    figure = make_subplots(rows=rows, shared_xaxes=True, vertical_spacing=0.08)
    epochs = metrics["epoch"] + 1
    mode = "lines" if len(metrics) > 1 else "markers"
    for row, names in ((1, losses), (2, scores)):
        for name in names:
            label, color = name.replace("_", " ").replace("f1", "F1"), PALETTE[(losses + scores).index(name) % 8]
            figure.add_scatter(x=epochs, y=metrics[name], name=label, mode=mode, line_color=color, row=row, col=1)
    figure.update_layout(_figure(title, f"{len(metrics)} epochs", 200 + 150 * rows, hovermode="x unified").layout)
    figure.update_yaxes(title_text="loss", rangemode="tozero", row=1)
    if scores:
        figure.update_yaxes(title_text="score on validation", tickformat=".0%", row=2)
    figure.update_xaxes(title_text="epoch", tickformat="d", row=rows)
    return figure


def plot_rates_tried(tried: pd.DataFrame, chosen: float) -> go.Figure:
    """The search for a learning rate: loss over the rates tried.

    Args:
        tried: columns lr and loss (smoothed), a row a step.
        chosen: the rate that was taken.
    """
    _require_columns("tried", tried, ["lr", "loss"])
    axes = {"xaxis": {"title": "learning rate", "type": "log"}, "yaxis": {"title": "loss"}}
    figure = _figure("Learning rates tried", f"chosen: {chosen:.1e}", **axes)
    figure.add_scatter(x=tried["lr"], y=tried["loss"], mode="lines", name="loss")
    figure.add_vline(x=chosen, line_dash="dash", line_color="#555555")
    return figure


def plot_reconstruction(target: np.ndarray, painted: np.ndarray, mask: np.ndarray) -> go.Figure:
    """How well hidden tokens were painted: R² of each token over the inputs in which it was hidden.

    Args:
        target: (B, N, T) what was to be painted.
        painted: (B, N, T).
        mask: (B, N) bool, True where hidden.
    """
    target, painted, mask = (np.asarray(array) for array in (target, painted, mask))
    _require(
        target.shape == painted.shape and mask.shape == target.shape[:2], "painted, mask", "fitting shapes", "others"
    )
    scores = []
    for token in range(target.shape[1]):
        hidden = mask[:, token]
        spread = ((target[:, token] - target[:, token].mean(0)) ** 2).sum()
        error = ((target[hidden, token] - painted[hidden, token]) ** 2).mean() if hidden.any() else np.nan
        scores.append(1 - error * target[:, token].size / max(spread, 1e-12))
    subtitle = f"over {len(target)} faces; 1: exact, 0: no better than the mean"
    axes = {"xaxis": {"title": "token", "tickformat": "d"}, "yaxis": {"title": "R²"}}
    figure = _figure("Hidden tokens painted in", subtitle, **axes)
    figure.add_bar(x=np.arange(target.shape[1]), y=scores, hovertemplate="token %{x}: %{y:.2f}<extra></extra>")
    return figure


def plot_code_statistics(mean_norm: np.ndarray, spread: np.ndarray) -> go.Figure:
    """Length and spread of `w+` codes by layer, on shaded coarse, middle and fine bands.

    Args:
        mean_norm: (layers,) mean Euclidean length of a layer's code; 18 layers, or 16 or 14 of a smaller StyleGAN.
        spread: (layers,) standard deviation over the faces, mean over a layer's channels.
    """
    layers = len(spread)
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    for row, (name, values) in enumerate({"mean_norm": mean_norm, "spread": spread}.items(), 1):
        _require(np.shape(values) == (layers,), name, f"shape ({layers},), a number a layer", np.shape(values))
        figure.add_scatter(x=np.arange(layers), y=values, mode="lines+markers", row=row, col=1, showlegend=False)
        figure.data[-1].update(line_color=PALETTE[0], hovertemplate="layer %{x}: %{y:.3g}<extra></extra>")
    figure.update_layout(_figure("Codes by layer of w+", height=460, margin_t=64).layout)
    for i, (band, place) in enumerate(BANDS.items()):
        first, last = place.start, min(place.stop, layers) - 1
        fill = (BAND, "#E6EFF5")[i % 2]
        figure.add_vrect(first - 0.5, last + 0.5, fillcolor=fill, layer="below", line_width=0, row="all", col=1)
        place = {"x": (first + last) / 2, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
        figure.add_annotation(text=band, font_color="#555555", **place)
    figure.update_xaxes(range=[-0.5, layers - 0.5], dtick=1, showgrid=False)
    figure.update_xaxes(title_text="layer", row=2)
    figure.update_yaxes(title_text="mean length", rangemode="tozero", row=1)
    figure.update_yaxes(title_text="spread", rangemode="tozero", row=2)
    return figure


def plot_code_distances(distance: np.ndarray, usual: float, low: float, high: float) -> go.Figure:
    """How far the codes of faces lie from their StyleGAN's mean code, `distance` (N,).

    Args:
        usual, low, high: where the StyleGAN's own codes lie, and between what a median is no cause for a warning.
    """
    right = 1.1 * max(distance.max(), usual)
    x = {"title": "distance from latent_avg, mean over the layers", "range": [0, right]}
    subtitle = f"{len(distance):,} faces; shaded: where their median is expected"
    figure = _figure("Distance from the mean code", subtitle, xaxis=x, yaxis={"title": "faces"}, bargap=0)
    counts, edges = np.histogram(distance, 80, (0, right))
    figure.add_bar(x=(edges[1:] + edges[:-1]) / 2, y=counts, hovertemplate="%{x:.3g}: %{y:,} faces<extra></extra>")
    figure.add_vrect(low, min(high, right), fillcolor=BAND, layer="below", line_width=0)
    figure.add_vline(usual, line_dash="dash", line_color="#777777", annotation_text="StyleGAN's own codes")
    return figure


def plot_embedding(points: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """A dot a face, coloured by class; a click in the legend hides a class.

    Args:
        points: (N, 2) coordinates, a few thousand at most.
        labels: (N,) class numbers.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    _require(points.ndim == 2 and points.shape[1] == 2, "points", "shape (N, 2)", points.shape)
    _require(labels.shape == points.shape[:1], "labels", f"shape ({len(points)},)", labels.shape)
    known = np.isin(labels, range(len(classes)))
    _require(known.all(), "labels", f"class numbers below {len(classes)}", np.unique(labels[~known]))
    figure = _figure("Codes in two dimensions", f"{len(points):,} faces", 500, margin_t=110)
    for number, name in enumerate(_labels(classes)):
        x, y = points[labels == number].T
        marker = {"size": 5, "opacity": 0.7, "color": PALETTE[number % 8]}
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="name")
    figure.update_layout(legend_itemsizing="constant", xaxis_title="direction 1", yaxis_title="direction 2")
    return figure
