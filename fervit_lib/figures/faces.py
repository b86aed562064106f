"""Figures of faces and of a set of them."""

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fervit_lib.figures.theme import INK, escape_labels, new_figure, require


def plot_class_counts(counts: pd.DataFrame) -> go.Figure:
    """Bars of `counts`, a row a class and a column a split; a column `total` is left out."""
    require(
        counts.size > 0,
        "counts",
        "at least one class and one split",
        f"a table of shape {counts.shape}",
    )
    counts = counts.drop(columns="total", errors="ignore")
    totals = ", ".join(f"{escape(str(split))} {number:,}" for split, number in counts.sum().items())
    figure = new_figure(
        "Faces per class and split", totals, yaxis={"title": "faces", "tickformat": ","}
    )
    for split in counts:
        hover = "%{x}: %{y:,}"
        figure.add_bar(
            x=escape_labels(counts.index),
            y=counts[split],
            name=escape(str(split)),
            hovertemplate=hover,
        )
    return figure


def contact_sheet(
    images_by_class: Mapping[str, Sequence[Image.Image]],
    size: int = 64,
    columns: int = 10,
    title: str = "Examples",
) -> Image.Image:
    """A picture of pictures: a row a class with its name beside it, `columns` images a row, more rows if it has more.

    Args:
        images_by_class: pictures of any size and mode; each is fitted into a square.
        size: side of a square in pixels.
    """
    require(len(images_by_class) > 0, "images_by_class", "at least one class", "none")
    require(size > 0 and columns > 0, "size, columns", "at least 1", (size, columns))
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
            sheet.paste(
                tile, (left + i % columns * (size + gap), top + i // columns * (size + gap))
            )
        top += rows[name] * (size + gap)
    return sheet
