"""Figures of the attention explorer: data in, plotly figure out, in the look of `figures`.

Their menus and sliders live in the figure itself, so that a page keeps them with no kernel behind it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from fervit_lib.figures import BAND, PALETTE, _figure, _labels, _require, _require_columns
from fervit_lib.latents import BANDS, NUM_LAYERS

# Lightness rises evenly in both: read alike with any colour vision, and in grey.
SEQUENTIAL = [[0, "#F7FBFF"], [0.25, "#C6DBEF"], [0.5, "#6BAED6"], [0.75, "#2171B5"], [1, "#08306B"]]
DIVERGING = [[0, "#B35806"], [0.5, "#F7F7F7"], [1, "#0B3C7D"]]
LAYERS = [str(layer) for layer in range(NUM_LAYERS)]
_FILLS = dict(zip(BANDS, (BAND, "#E6EFF5", BAND), strict=True))
_BAND_COLORS = dict(zip(BANDS, (PALETTE[0], PALETTE[1], PALETTE[2]), strict=True))


def shade_bands(figure: go.Figure, offset: float = 0, name_them: bool = True, **place: Any) -> None:
    """Coarse, middle and fine behind layers 0 to 17, which lie from `offset` on along x."""
    for band, layers in BANDS.items():
        first, last = layers.start + offset - 0.5, layers.stop + offset - 0.5
        figure.add_vrect(first, last, fillcolor=_FILLS[band], layer="below", line_width=0, **place)
        if name_them:
            text = {"text": band, "x": (first + last) / 2, "y": 1, "yref": "y domain", "yanchor": "bottom"}
            figure.add_annotation(showarrow=False, font={"color": "#555555", "size": 12}, **text)


def _add_menu(figure: go.Figure, labels: Sequence[str], args: Sequence[list], x: float = 1, y: float = 1) -> None:
    """A drop-down list above the figure's right end; `args` as plotly's `update` takes them."""
    buttons = [{"label": label, "method": "update", "args": a} for label, a in zip(labels, args, strict=True)]
    menu = {"buttons": buttons, "x": x, "xanchor": "right", "y": y, "yanchor": "bottom", "pad": {"b": 24}}
    figure.update_layout(updatemenus=[*figure.layout.updatemenus, {**menu, "bgcolor": "white"}])


def _add_slider(figure: go.Figure, name: str, labels: Sequence[str], args: Sequence[list], **place: Any) -> None:
    """A slider under the figure; `args` as plotly's `update` takes them."""
    steps = [{"label": label, "method": "update", "args": a} for label, a in zip(labels, args, strict=True)]
    slider = {"steps": steps, "currentvalue": {"prefix": f"{name} ", "font": {"size": 13}}, "active": 0}
    slider |= {"pad": {"t": 44, "b": 4}, "tickwidth": 0, "minorticklen": 0, "ticklen": 0, **place}
    figure.update_layout(sliders=[*figure.layout.sliders, slider])


def plot_attention(
    maps: np.ndarray, names: Sequence[str], half_width: np.ndarray | None = None, title: str = "Where CLS looks"
) -> go.Figure:
    """Bars of what CLS gives to each token, above the whole map; a menu of groups, sliders of layer and head.

    Args:
        maps: (groups, depth, num_heads, 19, 19), rows sum to 1; token 0 is CLS.
        names: of the groups, e.g. all faces, each emotion, single faces.
        half_width: (groups, depth, num_heads, 19) of an interval of the row of CLS, not a number where there is none.
    """
    maps = np.asarray(maps, dtype=float)
    groups, depth, num_heads, tokens, _ = maps.shape
    _require(tokens == 1 + NUM_LAYERS, "maps", f"{1 + NUM_LAYERS} tokens", tokens)
    _require(len(names) == groups, "names", f"{groups} names", len(names))
    widths = np.zeros(maps.shape[:-1]) if half_width is None else np.nan_to_num(half_width)
    # Head 0 of what is shown is the mean of all. Its interval is not that of any head, so it has none.
    shown = np.concatenate([maps.mean(2, keepdims=True), maps], axis=2).round(4)
    widths = np.concatenate([np.zeros_like(widths[:, :, :1]), widths], axis=2).round(4)
    figure = make_subplots(rows=2, row_heights=[0.36, 0.64], vertical_spacing=0.13)
    figure.update_layout(_figure(title, height=780, margin={"t": 100, "b": 20}).layout)
    # Every group lies in the figure, side by side in the bars and below one another in the map; the menu moves the
    # window, the sliders choose the trace and its numbers. So three choices go together without a program of ours.
    labels = ["CLS", *LAYERS]
    x, place = np.arange(groups * tokens), {"row": 1, "col": 1}
    colors = ["#777777", *(_BAND_COLORS[band] for band, s in BANDS.items() for _ in range(s.start, s.stop))] * groups

    def of_layer(layer: int) -> dict[str, list]:
        bars = [shown[:, layer, h, 0].ravel() for h in range(1 + num_heads)]
        heat = [shown[:, layer, h].reshape(-1, tokens).round(3) for h in range(1 + num_heads)]
        errors = [widths[:, layer, h].ravel() for h in range(1 + num_heads)]
        return {
            "y": list(bars) + [x] * len(heat),
            "z": [[]] * len(bars) + heat,
            "error_y.array": errors + [[]] * len(heat),
        }

    first = of_layer(0)
    for h in range(1 + num_heads):
        errors = {"array": first["error_y.array"][h], "thickness": 1.2, "width": 2, "color": "#333333"}
        hover = "%{text}: %{y:.3f}<extra></extra>"
        bars = {"text": labels * groups, "textposition": "none", "hovertemplate": hover, "marker_color": colors}
        figure.add_bar(x=x, y=first["y"][h], visible=h == 0, showlegend=False, error_y=errors, **bars, **place)
    for h in range(1 + num_heads):
        heat = {"hovertemplate": "to %{x}: %{z:.3f}<extra></extra>", "colorscale": SEQUENTIAL}
        bar = {"len": 0.55, "y": 0, "yanchor": "bottom", "thickness": 12, "title": {"text": "weight"}}
        figure.add_heatmap(
            z=first["z"][1 + num_heads + h], x=labels, y=x, zmin=0, visible=h == 0, row=2, col=1, colorbar=bar, **heat
        )
    for group in range(groups):
        shade_bands(figure, group * tokens + 1, **place)
    windows = [{"xaxis.range": [g * tokens - 0.5, (g + 1) * tokens - 0.5]} for g in range(groups)]
    for g, window in enumerate(windows):
        window["yaxis2.range"] = [(g + 1) * tokens - 0.5, g * tokens - 0.5]
    ticks = {"tickvals": x, "ticktext": labels * groups, "showgrid": False, "fixedrange": True}
    figure.update_xaxes(**ticks, range=windows[0]["xaxis.range"], row=1, col=1)
    figure.update_yaxes(**ticks, range=windows[0]["yaxis2.range"], title="from", row=2, col=1)
    figure.update_yaxes(title="from CLS", rangemode="tozero", tickformat=".0%", row=1, col=1)
    figure.update_xaxes(title="to token", type="category", side="bottom", row=2, col=1)
    _add_menu(figure, _labels(names), [[{}, window] for window in windows])
    blocks, heads = [str(i + 1) for i in range(depth)], ["mean", *(str(i + 1) for i in range(num_heads))]
    _add_slider(figure, "block", blocks, [[of_layer(i)] for i in range(depth)], x=0, len=0.47)
    choices = [[{"visible": [k == h for k in range(1 + num_heads)] * 2}] for h in range(1 + num_heads)]
    _add_slider(figure, "head", heads, choices, x=0.53, len=0.47)
    return figure


def plot_layer_scores(
    scores: pd.DataFrame, title: str, axis: str, errors: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None
) -> go.Figure:
    """Grouped bars over the 18 layers on shaded bands.

    Args:
        scores: a row a layer of w+, a column a method; `axis` says what of.
        errors: by column, lower and upper end of an interval, each (18,).
    """
    _require(len(scores) == NUM_LAYERS, "scores", f"{NUM_LAYERS} rows, one a layer", len(scores))
    figure = _figure(title, height=400, margin_t=110, yaxis={"title": axis, "tickformat": ".0%"})
    shade_bands(figure)
    for name, color in zip(scores, PALETTE, strict=False):
        bar = {"name": str(name), "marker_color": color, "hovertemplate": "layer %{x}: %{y:.1%}"}
        if errors and name in errors:
            low, high = errors[name]
            values = scores[name].to_numpy()
            ends = {"array": high - values, "arrayminus": values - low, "thickness": 1, "width": 2}
            bar["error_y"] = ends | {"color": "#333333"}
        figure.add_bar(x=np.arange(NUM_LAYERS), y=scores[name], **bar)
    figure.update_xaxes(title="layer of w+", dtick=1, range=[-0.5, NUM_LAYERS - 0.5], showgrid=False)
    figure.update_layout(legend_y=1.1)
    return figure


def plot_removal_curves(curves: Mapping[str, Mapping[str, np.ndarray]]) -> go.Figure:
    """Probability of the class as layers go (deletion) or come (insertion), a panel each.

    Args:
        curves: {"deletion": …, "insertion": …} → by ranking a curve (steps,); `random` is (repeats, steps).
    """
    figure = make_subplots(cols=len(curves), shared_yaxes=True, subplot_titles=list(curves), horizontal_spacing=0.05)
    subtitle = "probability of the class first predicted; grey: random orders"
    figure.update_layout(_figure("Deletion and insertion", subtitle, height=430, margin_t=150).layout)
    for column, (panel, lines) in enumerate(curves.items(), 1):
        for number, (name, values) in enumerate(lines.items()):
            values = np.asarray(values)
            random = values.ndim == 2
            mean = values.mean(0) if random else values
            line = {"color": "#888888" if random else PALETTE[number % 8], "dash": "dash" if random else "solid"}
            figure.add_scatter(
                x=np.arange(len(mean)), y=mean, name=name, line=line, mode="lines", row=1, col=column,
                legendgroup=name, showlegend=column == 1, hovertemplate="%{x} layers: %{y:.1%}",
            )  # fmt: skip
        figure.update_xaxes(title=f"layers {'taken out' if panel == 'deletion' else 'put in'}", row=1, col=column)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_layout(legend={"y": 1.12})
    return figure


def plot_heads(values: Mapping[str, np.ndarray]) -> go.Figure:
    """A heat map a score, each (depth, num_heads): what every head is like. Scales are each their own."""
    figure = make_subplots(cols=len(values), subplot_titles=list(values), horizontal_spacing=0.09)
    depth, num_heads = next(iter(values.values())).shape
    figure.update_layout(_figure("Heads", height=190 + 34 * max(depth, 3), margin_t=100).layout)
    for column, (name, score) in enumerate(values.items(), 1):
        domain = figure.layout[f"xaxis{column if column > 1 else ''}"].domain
        bar = {"x": domain[1] + 0.005, "thickness": 8, "tickfont": {"size": 10}}
        figure.add_heatmap(
            z=np.asarray(score), x=[str(h + 1) for h in range(num_heads)], y=[str(i + 1) for i in range(depth)],
            colorscale=SEQUENTIAL, colorbar=bar, xgap=1, ygap=1, row=1, col=column,
            hovertemplate=f"block %{{y}}, head %{{x}}: %{{z:.3f}}<extra>{name}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="head", type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    figure.update_yaxes(title="block", col=1)
    return figure


def plot_head_similarity(similarity: Mapping[str, np.ndarray]) -> go.Figure:
    """How alike the heads of a block are, a panel a kind, a slider over blocks; each (depth, num_heads, num_heads)."""
    figure = make_subplots(cols=len(similarity), subplot_titles=list(similarity), horizontal_spacing=0.08)
    subtitle = "cosine: 1 the same, 0 nothing in common, −1 opposite"
    figure.update_layout(_figure("Similarity of heads", subtitle, height=430, margin_t=110).layout)
    depth, num_heads, _ = next(iter(similarity.values())).shape
    names = [str(h + 1) for h in range(num_heads)]
    for column, (kind, values) in enumerate(similarity.items(), 1):
        figure.add_heatmap(
            z=np.round(values[0], 4), x=names, y=names, zmin=-1, zmax=1, colorscale=DIVERGING, row=1, col=column,
            showscale=column == len(similarity), xgap=1, ygap=1, colorbar={"thickness": 10},
            hovertemplate=f"heads %{{y}} and %{{x}}: %{{z:.2f}}<extra>{kind}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="head", type="category", showgrid=False, constrain="domain")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    steps = [[{"z": [np.round(values[i], 4) for values in similarity.values()]}] for i in range(depth)]
    _add_slider(figure, "block", [str(i + 1) for i in range(depth)], steps)
    return figure


def plot_pruning(by_importance: np.ndarray, at_random: np.ndarray) -> go.Figure:
    """Accuracy against heads switched off: least important first (heads + 1,), random orders (repeats, heads + 1)."""
    figure = _figure("Accuracy as heads go", "the least important first, and random orders", height=400, margin_t=110)
    steps, random = np.arange(len(by_importance)), np.asarray(at_random)
    figure.add_scatter(x=steps, y=by_importance, name="by importance", mode="lines+markers", line_color=PALETTE[0])
    spread = {"array": random.max(0) - random.mean(0), "arrayminus": random.mean(0) - random.min(0), "width": 3}
    line = {"color": "#888888", "dash": "dash"}
    figure.add_scatter(
        x=steps, y=random.mean(0), name="at random (mean, range)", mode="lines", line=line, error_y=spread
    )
    figure.update_yaxes(tickformat=".0%", title="accuracy", rangemode="tozero")
    figure.update_xaxes(title="heads switched off", tickformat="d")
    return figure


def plot_cka(pairs: Mapping[str, Mapping[str, tuple[np.ndarray, Sequence[str], Sequence[str]]]]) -> go.Figure:
    """CKA of all layers of two models, a panel a kernel, a menu of pairs.

    Args:
        pairs: "rows × columns" → kernel → (matrix, names of rows, names of columns).
    """
    kernels = list(next(iter(pairs.values())))
    titles = {"linear": "linear", "rbf": "Gaussian"}
    figure = make_subplots(cols=len(kernels), subplot_titles=[titles.get(k, k) for k in kernels])
    figure.update_layout(_figure("Do models agree? (CKA)", "1: alike up to rotation", height=520, margin_t=130).layout)
    for number, found in enumerate(pairs.values()):
        for column, kernel in enumerate(kernels, 1):
            matrix, rows, columns = found[kernel]
            figure.add_heatmap(
                z=np.round(matrix, 3), x=list(columns), y=list(rows), zmin=0, zmax=1, colorscale=SEQUENTIAL, row=1,
                col=column, visible=number == 0, showscale=column == len(kernels), xgap=1, ygap=1,
                colorbar={"thickness": 10}, hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
            )  # fmt: skip
    figure.update_yaxes(type="category", showgrid=False)
    figure.update_xaxes(type="category", showgrid=False, tickangle=-60)
    sides = [name.split(" × ") for name in pairs]
    axes = [{"yaxis.title.text": a, **{f"xaxis{i or ''}.title.text": b for i in ("", 2)}} for a, b in sides]
    figure.update_yaxes(title=sides[0][0], col=1)
    figure.update_xaxes(title=sides[0][1])
    visible = [[{"visible": [k // len(kernels) == n for k in range(len(figure.data))]}] for n in range(len(pairs))]
    _add_menu(figure, _labels(pairs), [[*v, axis] for v, axis in zip(visible, axes, strict=True)], y=1.04)
    return figure


def plot_probes(scores: pd.DataFrame) -> go.Figure:
    """Accuracy of linear readers over depth, a line a run and number of shots, bars from lowest to highest draw.

    Args:
        scores: columns run, layer, shots, accuracy, lowest, highest.
    """
    _require_columns("scores", scores, ["run", "layer", "shots", "accuracy", "lowest", "highest"])
    figure = _figure("Few-shot reading by depth", height=440, margin_t=130, xaxis={"title": "after"})
    runs, shots = list(scores["run"].unique()), sorted(scores["shots"].unique())
    for (run, number), group in scores.groupby(["run", "shots"], sort=False):
        line = {"color": PALETTE[runs.index(run) % 8], "dash": ("solid", "dot", "dash")[shots.index(number) % 3]}
        ends = {"array": group["highest"] - group["accuracy"], "arrayminus": group["accuracy"] - group["lowest"]}
        figure.add_scatter(
            x=group["layer"], y=group["accuracy"], name=f"{_labels([run])[0]}, {number} a class", line=line,
            error_y=ends | {"thickness": 1, "width": 3}, mode="lines+markers",
            hovertemplate="%{x}: %{y:.1%}",
        )  # fmt: skip
    figure.update_yaxes(tickformat=".0%", title="accuracy", rangemode="tozero")
    return figure


def plot_swaps(effects: pd.DataFrame) -> go.Figure:
    """What a face is read as after one band came from another: as itself, as the other, as something else."""
    _require_columns("effects", effects, ["band", "kept", "taken", "num_pairs"])
    subtitle = f"{effects['num_pairs'].iloc[0]:,} pairs of faces that are read differently"
    figure = _figure("Layers swapped", subtitle, height=400, margin_t=110, barmode="stack")
    rest = 1 - effects["kept"] - effects["taken"]
    parts = {"still the first face's": effects["kept"], "now the other's": effects["taken"], "a third": rest}
    for (name, share), color in zip(parts.items(), (PALETTE[0], PALETTE[1], "#BBBBBB"), strict=True):
        text = [f"{s:.0%}" for s in share]
        bar = {"marker_color": color, "text": text, "textposition": "inside", "hovertemplate": "%{x}: %{y:.1%}"}
        figure.add_bar(x=effects["band"], y=share, name=name, **bar)
    figure.update_yaxes(tickformat=".0%", title="pairs", range=[0, 1])
    figure.update_xaxes(title="layers from the other face")
    return figure


def plot_positions(similarity: Mapping[str, np.ndarray]) -> go.Figure:
    """Cosine between position embeddings, a panel a kind, each (18, 18)."""
    figure = make_subplots(cols=len(similarity), subplot_titles=list(similarity), horizontal_spacing=0.06)
    figure.update_layout(_figure("Position embeddings", "cosine of each two layers", 400, margin_t=110).layout)
    for column, values in enumerate(similarity.values(), 1):
        figure.add_heatmap(
            z=np.round(values, 3), zmin=-1, zmax=1, colorscale=DIVERGING, row=1, col=column,
            showscale=column == len(similarity), colorbar={"thickness": 10},
            hovertemplate="layers %{y} and %{x}: %{z:.2f}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(showgrid=False, constrain="domain", title="layer of w+")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def plot_depths(points: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """CLS of every face in two directions, coloured by class, a slider over depth; each of `points` (n, 2)."""
    figure = _figure("CLS through the blocks", f"{len(labels):,} faces, PCA at each depth", 560, margin_t=120)
    first = next(iter(points.values()))
    for number, name in enumerate(_labels(classes)):
        x, y = first[labels == number].T
        marker = {"size": 5, "opacity": 0.75, "color": PALETTE[number % 8]}
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="name")
    limit = 1.05 * max(np.abs(found).max() for found in points.values())
    chosen = [labels == number for number in range(len(classes))]
    steps = [[{axis: [p[c, i].round(3) for c in chosen] for i, axis in enumerate("xy")}] for p in points.values()]
    _add_slider(figure, "after", list(points), steps, len=0.94, x=0.03)
    figure.update_xaxes(range=[-limit, limit], title="direction 1")
    figure.update_yaxes(range=[-limit, limit], title="direction 2")
    figure.update_layout(legend_itemsizing="constant")
    return figure


def plot_layers_off(
    probs: np.ndarray, faces: Sequence[str], classes: Sequence[str], removed: Sequence[str]
) -> go.Figure:
    """What each face is read as with nothing, each band or each layer off; a menu of faces.

    Args:
        probs: (faces, len(removed), classes).
    """
    _require(probs.shape == (len(faces), len(removed), len(classes)), "probs", "faces, removed, classes", probs.shape)
    figure = _figure("A face with layers off", height=620, margin_t=110)
    shown, hover = probs.round(3), "%{y}: %{x} %{z:.1%}<extra></extra>"
    figure.add_heatmap(
        z=shown[0], x=_labels(classes), y=list(removed), zmin=0, zmax=1, colorscale=SEQUENTIAL, hovertemplate=hover,
        texttemplate="%{z:.0%}", xgap=1, ygap=1, showscale=False,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category", title="off", showgrid=False)
    figure.update_xaxes(side="bottom", showgrid=False, title="read as")
    _add_menu(figure, _labels(faces), [[{"z": [values]}] for values in shown])
    return figure


def overlay_map(image: Image.Image, scores: np.ndarray, opacity: float = 0.6) -> Image.Image:
    """A map (side, side) ≥ 0 over a picture of any size: dark blue where it is highest, clear where it is lowest."""
    scores = np.asarray(scores, dtype=float)
    _require(scores.ndim == 2, "scores", "a map (side, side)", scores.shape)
    level = (scores - scores.min()) / max(np.ptp(scores), 1e-12)
    smooth = Image.fromarray((255 * level).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    table = np.array([_rgb(color) for color in sample_colorscale(SEQUENTIAL, np.linspace(0, 1, 256).tolist())])
    weight = (opacity * np.asarray(smooth) / 255)[..., None]
    pixels = (1 - weight) * np.asarray(image.convert("RGB")) + weight * table[np.asarray(smooth)]
    return Image.fromarray(pixels.round().astype(np.uint8))


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(float(c)) for c in color.removeprefix("rgb(").removesuffix(")").split(","))
