"""Where a model looks: its maps, and maps over a photograph."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from fervit_lib.figures.explain.controls import (
    BAND_COLORS,
    LAYERS,
    SEQUENTIAL,
    add_menu,
    add_slider,
    shade_bands,
)
from fervit_lib.figures.theme import PERCENT, escape_labels, new_figure, require
from fervit_lib.latents import BANDS, NUM_LAYERS


def plot_attention(
    maps: np.ndarray,
    names: Sequence[str],
    half_width: np.ndarray | None = None,
    title: str = "Where CLS looks",
) -> go.Figure:
    """Bars of what CLS gives to each token, above the whole map; a menu of groups, sliders of layer and head.

    Args:
        maps: (groups, depth, num_heads, 19, 19), rows sum to 1; token 0 is CLS.
        names: of the groups, e.g. all faces, each emotion, single faces.
        half_width: (groups, depth, num_heads, 19) of an interval of the row of CLS, not a number where there is none.
    """
    maps = np.asarray(maps, dtype=float)
    groups, depth, num_heads, tokens, _ = maps.shape
    require(tokens == 1 + NUM_LAYERS, "maps", f"{1 + NUM_LAYERS} tokens", tokens)
    require(len(names) == groups, "names", f"{groups} names", len(names))
    widths = np.zeros(maps.shape[:-1]) if half_width is None else np.nan_to_num(half_width)
    # Head 0 of what is shown is the mean of all. Its interval is not that of any head, so it has none.
    shown = np.concatenate([maps.mean(2, keepdims=True), maps], axis=2).round(4)
    widths = np.concatenate([np.zeros_like(widths[:, :, :1]), widths], axis=2).round(4)
    figure = make_subplots(rows=2, row_heights=[0.36, 0.64], vertical_spacing=0.13)
    figure.update_layout(new_figure(title, height=780, margin={"t": 100, "b": 20}).layout)
    # Every group lies in the figure, side by side in the bars and below one another in the map; the menu moves the
    # window, the sliders choose the trace and its numbers. So three choices go together without a program of ours.
    labels = ["CLS", *LAYERS]
    x = np.arange(groups * tokens)
    colors = [
        "#777777",
        *(BAND_COLORS[band] for band, s in BANDS.items() for _ in range(s.start, s.stop)),
    ] * groups

    def of_layer(layer: int) -> dict[str, list]:
        bars = [shown[:, layer, h, 0].ravel() for h in range(1 + num_heads)]
        # In percent with one decimal: half as many digits in the page as fractions of the same precision.
        heat = [
            (100 * shown[:, layer, h]).reshape(-1, tokens).round(1) for h in range(1 + num_heads)
        ]
        errors = [widths[:, layer, h].ravel() for h in range(1 + num_heads)]
        return {
            "y": list(bars) + [x] * len(heat),
            "z": [[]] * len(bars) + heat,
            "error_y.array": errors + [[]] * len(heat),
        }

    first = of_layer(0)
    for h in range(1 + num_heads):
        errors = {
            "array": first["error_y.array"][h],
            "thickness": 1.2,
            "width": 2,
            "color": "#333333",
        }
        hover = "%{text}: %{y:.3f}<extra></extra>"
        bars = {
            "text": labels * groups,
            "textposition": "none",
            "hovertemplate": hover,
            "marker_color": colors,
        }
        figure.add_bar(
            x=x,
            y=first["y"][h],
            visible=h == 0,
            showlegend=False,
            error_y=errors,
            row=1,
            col=1,
            **bars,
        )
    for h in range(1 + num_heads):
        heat = {"hovertemplate": "to %{x}: %{z:.1f} %<extra></extra>", "colorscale": SEQUENTIAL}
        bar = {
            "len": 0.55,
            "y": 0,
            "yanchor": "bottom",
            "thickness": 12,
            "title": {"text": "weight, %"},
        }
        figure.add_heatmap(
            z=first["z"][1 + num_heads + h],
            x=labels,
            y=x,
            zmin=0,
            visible=h == 0,
            row=2,
            col=1,
            colorbar=bar,
            **heat,
        )
    for group in range(groups):
        shade_bands(figure, group * tokens + 1, row=1, col=1)
    windows = [{"xaxis.range": [g * tokens - 0.5, (g + 1) * tokens - 0.5]} for g in range(groups)]
    for g, window in enumerate(windows):
        window["yaxis2.range"] = [(g + 1) * tokens - 0.5, g * tokens - 0.5]
    ticks = {"tickvals": x, "ticktext": labels * groups, "showgrid": False, "fixedrange": True}
    figure.update_xaxes(**ticks, range=windows[0]["xaxis.range"], row=1, col=1)
    figure.update_yaxes(**ticks, range=windows[0]["yaxis2.range"], title="from", row=2, col=1)
    figure.update_yaxes(title="from CLS", rangemode="tozero", tickformat=PERCENT, row=1, col=1)
    figure.update_xaxes(title="to token", type="category", side="bottom", row=2, col=1)
    add_menu(figure, escape_labels(names), [[{}, window] for window in windows])
    blocks, heads = (
        [str(i + 1) for i in range(depth)],
        ["mean", *(str(i + 1) for i in range(num_heads))],
    )
    add_slider(figure, "block", blocks, [[of_layer(i)] for i in range(depth)], x=0, len=0.47)
    choices = [
        [{"visible": [k == h for k in range(1 + num_heads)] * 2}] for h in range(1 + num_heads)
    ]
    add_slider(figure, "head", heads, choices, x=0.53, len=0.47)
    return figure


def overlay_map(image: Image.Image, scores: np.ndarray, opacity: float = 0.6) -> Image.Image:
    """A map (side, side) ≥ 0 over a picture of any size: dark blue where it is highest, clear where it is lowest."""
    scores = np.asarray(scores, dtype=float)
    require(scores.ndim == 2, "scores", "a map (side, side)", scores.shape)
    level = (scores - scores.min()) / max(np.ptp(scores), 1e-12)
    smooth = Image.fromarray((255 * level).astype(np.uint8)).resize(
        image.size, Image.Resampling.BICUBIC
    )
    table = np.array(
        [_rgb(color) for color in sample_colorscale(SEQUENTIAL, np.linspace(0, 1, 256).tolist())]
    )
    weight = (opacity * np.asarray(smooth) / 255)[..., None]
    pixels = (1 - weight) * np.asarray(image.convert("RGB")) + weight * table[np.asarray(smooth)]
    return Image.fromarray(pixels.round().astype(np.uint8))


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(float(c)) for c in color.removeprefix("rgb(").removesuffix(")").split(","))
