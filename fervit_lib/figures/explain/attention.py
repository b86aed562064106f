"""Attention maps, and maps over a photograph."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageOps

from fervit_lib.figures.codes import shade_bands, token_names
from fervit_lib.figures.controls import add_menu, add_slider
from fervit_lib.figures.theme import (
    GREY,
    INK,
    PALETTE,
    PERCENT,
    SEQUENTIAL,
    escape_label,
    escape_labels,
    new_panels,
    require,
)
from fervit_lib.latents import layer_bands


def plot_attention(
    maps: np.ndarray, names: Sequence[str], half_width: np.ndarray, run: str
) -> go.Figure:
    """Attention from CLS as bars, above the whole map; a menu of groups, sliders of block and head.

    Args:
        maps: (groups, depth, num_heads, N, N), rows sum to 1; token 0 is CLS, the others are the
            layers of a code.
        names: of the groups, e.g. all faces, each emotion, single faces.
        half_width: (groups, depth, num_heads, N) of the 95% CI of the row of CLS, NaN where there
            is none.
        run: name of the run, for the subtitle.
    """
    maps = np.asarray(maps, dtype=float)
    num_groups, depth, num_heads, num_tokens, _ = maps.shape
    require(len(names) == num_groups, "names", f"{num_groups} names", len(names))
    widths = np.nan_to_num(half_width)
    # The first "head" is the mean of all. The intervals of the heads do not apply to it, so it
    # has none.
    maps = np.concatenate([maps.mean(2, keepdims=True), maps], axis=2)
    widths = np.concatenate([np.zeros_like(widths[:, :, :1]), widths], axis=2)

    # The figure holds all groups: side by side as bars, below one another as a map. The menu moves
    # the visible range of the axes, one slider changes the numbers, the other the visible traces.
    # So the three combine without any script.
    maps = maps.transpose(1, 2, 0, 3, 4).round(4)  # (depth, 1 + heads, groups, tokens, tokens)
    shape = (depth, 1 + num_heads, num_groups * num_tokens)
    bars = maps[..., 0, :].reshape(shape)
    errors = widths.transpose(1, 2, 0, 3).reshape(shape).round(4)
    # Percent with one decimal need half the digits, and so bytes on the page, of fractions.
    percent = (100 * maps).reshape(*shape, num_tokens).round(1)

    figure = new_panels(
        "Attention from CLS, and between tokens",
        f"{escape_label(run)}; bars: mean of the faces, 95% interval for single heads",
        800,
        margin_t=128,
        rows=2,
        row_heights=[0.36, 0.64],
        vertical_spacing=0.13,
    )
    _add_traces(figure, num_tokens, bars[0], errors[0], percent[0])
    _add_axes(figure, num_tokens, names)
    blocks = []
    # An empty list is no change: maps have no error bars and bars no z. The y of a map stays.
    unchanged: list[list] = [[]] * (1 + num_heads)
    positions = [np.arange(num_groups * num_tokens)] * (1 + num_heads)
    for block in range(depth):
        update = {
            "y": [*bars[block], *positions],
            "z": [*unchanged, *percent[block]],
            "error_y.array": [*errors[block], *unchanged],
        }
        blocks.append([update])
    add_slider(figure, "block", [str(i + 1) for i in range(depth)], blocks, x=0, len=0.47)
    heads = ["mean", *(str(head + 1) for head in range(num_heads))]
    visible = [[{"visible": [other == head for other in heads] * 2}] for head in heads]
    add_slider(figure, "head", heads, visible, x=0.53, len=0.47)
    return figure


def _add_traces(
    figure: go.Figure, num_tokens: int, bars: np.ndarray, errors: np.ndarray, percent: np.ndarray
) -> None:
    """Add the bars of every head, then the maps of every head; those of the mean are visible."""
    positions = np.arange(bars.shape[1])
    num_groups = len(positions) // num_tokens
    tokens = token_names(num_tokens - 1)
    colors = [GREY]  # CLS
    for color, layers in zip(PALETTE, layer_bands(num_tokens - 1).values(), strict=False):
        colors += [color] * len(layers)
    for head, values in enumerate(bars):
        figure.add_bar(
            x=positions,
            y=values,
            error_y={"array": errors[head], "color": INK, "width": 0},
            marker_color=colors * num_groups,
            text=tokens * num_groups,
            textposition="none",
            hovertemplate="%{text}: %{y:.3f}<extra></extra>",
            visible=head == 0,
            showlegend=False,
            row=1,
            col=1,
        )
    for head, values in enumerate(percent):
        figure.add_heatmap(
            z=values,
            x=tokens,
            y=positions,
            zmin=0,
            colorbar={"len": 0.55, "y": 0, "yanchor": "bottom", "title": "weight (%)"},
            hovertemplate="to %{x}: %{z:.1f} %<extra></extra>",
            visible=head == 0,
            row=2,
            col=1,
        )


def _add_axes(figure: go.Figure, num_tokens: int, names: Sequence[str]) -> None:
    """Label the axes, and add the menu of groups, which moves their ranges."""
    updates = []
    for group in range(len(names)):
        first = group * num_tokens - 0.5
        last = first + num_tokens
        updates.append([{}, {"xaxis.range": [first, last], "yaxis2.range": [last, first]}])
        shade_bands(figure, num_tokens - 1, first + 1.5, row=1, col=1)
    add_menu(figure, escape_labels(names), updates, pad={"b": 22})
    ticks = {
        "tickvals": np.arange(len(names) * num_tokens),
        "ticktext": token_names(num_tokens - 1) * len(names),
        "showgrid": False,
        "fixedrange": True,
    }
    figure.update_xaxes(**ticks, range=updates[0][1]["xaxis.range"], row=1)
    figure.update_yaxes(**ticks, range=updates[0][1]["yaxis2.range"], title="from token", row=2)
    figure.update_yaxes(title="weight from CLS", rangemode="tozero", tickformat=PERCENT, row=1)
    figure.update_xaxes(title="to token")
    figure.update_xaxes(type="category", row=2)


def overlay_map(image: Image.Image, scores: np.ndarray) -> Image.Image:
    """Lay a map (side, side) ≥ 0 over an image: dark blue where highest, clear where lowest."""
    scores = np.asarray(scores, dtype=float)
    level = (scores - scores.min()) / max(np.ptp(scores), 1e-12)
    small = Image.fromarray((255 * level).astype(np.uint8))
    smooth = small.resize(image.size, Image.Resampling.BICUBIC)
    colors = ImageOps.colorize(smooth, SEQUENTIAL[0], SEQUENTIAL[-1])
    weight = smooth.point(lambda value: 0.6 * value)
    return Image.composite(colors, image.convert("RGB"), weight)
