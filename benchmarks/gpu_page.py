"""The page of `gpu_figures.py`."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.tables import style_table
from fervit_lib.figures.theme import PALETTE, PERCENT, new_figure, rows_height, wrap_labels
from fervit_lib.report.html import figure_div, write_html

NO_GPU = (
    "Measured on a CPU with tiny models, to try the command: these are no figures of a GPU, nor of "
    "models that anyone trains."
)
QUESTION = (
    "How fast are encoding, training, distillation and single predictions on this device, and how "
    "far is each from what the device can do?"
)
HEADINGS = {
    "encode": "Encode: faces to w+ codes",
    "train": "Train: steps of a fit, faces on the device",
    "distil": "Distil: person segmentation",
    "latency": "Latency: one call of a model",
}
NOTES = """
<p class="caption">Weights and inputs are random, since speed does not depend on them. The limit is
the longer of two times: FLOP of matrix products and convolutions (one multiply-add is two) at the
rate of a large matrix product in the same precision, and the bytes at the rate of a large copy. The
bytes are those that the operators read and write, each for itself: weights, activations, and in
training gradients and the optimiser's state. Caches and compiled kernels save a part of them, so a
share above 100% is possible where memory sets the limit. ONNX Runtime computes in float32, and its
time includes the copies from and to the host's memory. JPEG files are read by the CPU, which the
limit does not know. Kernels are deterministic, as in all notebooks.</p>
"""
NEXT = """
<p>This page says nothing about accuracy. All of FER2013 at full size, three seeds, on this device:
put the faces into <code>data/fer2013</code> and run <code>make fer2013</code>.</p>
"""


def write_gpu_page(page: Path, content: Mapping[str, Any]) -> Path:
    """Write the content of `figures.json` as a page that needs no network."""
    device = content["config"]["device"]
    table = pd.DataFrame(content["figures"].values())
    parts = [
        f"<h1>Speed on {escape(device)}</h1>",
        f'<p class="lead"><strong>{QUESTION}</strong></p>',
        f'<p class="lead">{escape(_summary(content["card"]))}</p>',
    ]
    if len(table):
        parts.append(figure_div(plot_shares(table)))
        parts += [_group(table, group) for group in HEADINGS if (table["group"] == group).any()]
    if content["missing"]:
        parts.append("<h2>Not measured</h2>" + _list(content["missing"]))
    parts += [NOTES, NEXT, "<h2>How this page was made</h2>", _list(_origin(content["config"]))]
    return write_html(
        page,
        "page.html.j2",
        figures=len(table) > 0,
        title=f"Speed on {device}",
        synthetic="" if content["is_gpu"] else NO_GPU,
        content="\n".join(parts),
    )


def _summary(card: Mapping[str, Any]) -> str:
    rates = [f"{rate / 1e12:,.3g} TFLOP/s in {name}" for name, rate in card["flops"].items()]
    return (
        f"Measured in the same call: {', '.join(rates)} (a large matrix product), and "
        f"{card['bandwidth'] / 1e12:,.3g} TB/s of memory (a large copy)."
    )


def plot_shares(table: pd.DataFrame) -> go.Figure:
    """How much of the device's limit each figure reaches; colour: what sets the limit."""
    labels = wrap_labels(
        f"{row['group']}: {row['name']}"
        + (f", batch {row['batch_size']}" if row["unit"] == "ms" else "")
        for row in table.to_dict("records")
    )
    shares = table[["of_peak", "of_bandwidth"]].max(axis=1)
    figure = new_figure(
        "Share of the device's limit",
        "100%: the device's own rate of matrix products or of memory",
        120 + rows_height(labels),
        barmode="overlay",
    )
    for color, limited_by in zip(PALETTE, ("compute", "memory"), strict=False):
        chosen = (table["limited_by"] == limited_by).to_numpy()
        if chosen.any():
            figure.add_bar(
                y=[label for label, is_chosen in zip(labels, chosen, strict=True) if is_chosen],
                x=shares[chosen],
                orientation="h",
                marker_color=color,
                name=f"limit set by {limited_by}",
                hovertemplate="%{y}: %{x:.1%}<extra></extra>",
            )
    figure.update_xaxes(tickformat=PERCENT, rangemode="tozero", title="share of the limit")
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1])
    return figure


def _group(table: pd.DataFrame, group: str) -> str:
    """A heading and the table of a group."""
    rows = table[table["group"] == group]
    unit = rows["unit"].iloc[0]
    what = "image" if unit == "images/s" else "face"
    columns = {
        "name": "what",
        "precision": "precision",
        "batch_size": ("batch", "{:,}"),
        "value": (f"median ({unit})" if unit == "ms" else unit, _number),
        "p95": (f"95th percentile ({unit})", _number),
        "limit": (f"limit ({unit})", _number),
        "limited_by": "set by",
        "of_peak": ("share of FLOP/s", "{:.1%}"),
        "of_bandwidth": ("share of bytes/s", "{:.1%}"),
        "gflop": (f"GFLOP per {what}", _number),
        "megabytes": (f"MB per {what}", _number),
    }
    html = style_table(rows, columns).to_html()
    return f'<h2>{HEADINGS[group]}</h2>\n<div class="scroll">{html}</div>'


def _number(value: float) -> str:
    """Three digits, and no exponent."""
    if pd.isna(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _origin(config: Mapping[str, Any]) -> dict[str, str]:
    revision = (config["git_revision"] or "no git revision")[:10]
    changes = " with uncommitted changes" if config["git_dirty"] else ""
    return {
        "Started": config["started"],
        "Device": config["device"],
        "Code": revision + changes,
        "Versions": ", ".join(f"{name} {number}" for name, number in config["versions"].items()),
    }


def _list(entries: Mapping[str, str]) -> str:
    """A description list."""
    items = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in entries.items())
    return f"<dl>{''.join(items)}</dl>"
