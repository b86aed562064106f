"""Figures of face images and of a set of them."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fervit_lib.figures.theme import (
    GREY,
    INK,
    escape_label,
    escape_labels,
    new_figure,
    require,
)

_GAP = 4  # pixels between the images of a contact sheet


def plot_class_counts(counts: pd.DataFrame) -> go.Figure:
    """Bars of `counts`: one row per class, one column per split. A column `total` is ignored."""
    counts = counts.drop(columns="total", errors="ignore")
    totals = [f"{escape_label(split)}: n = {number:,}" for split, number in counts.sum().items()]
    axis = {"title": "faces", "tickformat": ","}
    figure = new_figure("Faces per class and split", ", ".join(totals), yaxis=axis)
    for split in counts:
        figure.add_bar(
            x=escape_labels(counts.index),
            y=counts[split],
            name=escape_label(split),
            hovertemplate="%{x}: %{y:,}",
        )
    return figure


def picture_grid(
    images: Sequence[Image.Image], captions: Sequence[str], title: str, size: int = 96
) -> Image.Image:
    """Images in rows of up to seven, each with its caption below; lines are separated by `\n`.

    Args:
        size: side of a square in pixels, into which an image of any size is fitted.
    """
    font = ImageFont.load_default(13)
    title_font = ImageFont.load_default(17)
    lines = max(caption.count("\n") for caption in captions) + 1
    width = max(
        size,
        *(
            round(
                font.getlength(
                    c,
                )
            )
            for text in captions
            for c in text.split("\n")
        ),
    )
    width += 3 * _GAP
    height = size + 18 * lines + 3 * _GAP
    rows = -(-len(images) // 7)
    columns = -(-len(images) // rows)  # ten images: two rows of five
    left = max(columns * width, round(title_font.getlength(title)) + 16)
    sheet = Image.new("RGB", (left, 32 + rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 16), title, INK, title_font, anchor="lm")
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(i, columns)
        x, y = 8 + column * width, 32 + row * height
        tile = ImageOps.pad(image.convert("RGB"), (size, size), color="white")
        sheet.paste(tile, (x, y))
        draw.multiline_text((x, y + size + _GAP), caption, INK, font)
    return sheet


def contact_sheet(
    images_by_class: Mapping[str, Sequence[Image.Image]],
    size: int = 64,
    columns: int = 10,
    title: str = "Examples",
) -> Image.Image:
    """Arrange images in rows, one or more per class, with the name of the class at the left.

    Args:
        images_by_class: images of any size and mode; each is fitted into a square.
        size: side of a square in pixels.
        columns: images per row.
    """
    require(len(images_by_class) > 0, "images_by_class", "at least one class", "none")
    font = ImageFont.load_default(14)
    title_font = ImageFont.load_default(17)
    step = size + _GAP
    left = max(round(font.getlength(name)) for name in images_by_class) + 20
    longest = max(len(images) for images in images_by_class.values())
    width = left + min(columns, max(1, longest)) * step
    width = max(width, round(title_font.getlength(title)) + 16)
    # Ceiling division; a class without images still gets a row.
    rows = {name: max(1, -(-len(images) // columns)) for name, images in images_by_class.items()}
    top = 32 if title else _GAP
    sheet = Image.new("RGB", (width + _GAP, top + sum(rows.values()) * step), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 16), title, INK, title_font, anchor="lm")
    for name, images in images_by_class.items():
        draw.text((8, top + size / 2), name, INK, font, anchor="lm")
        if not images:
            draw.text((left, top + size / 2), "none", GREY, font, anchor="lm")
        for i, image in enumerate(images):
            row, column = divmod(i, columns)
            tile = ImageOps.pad(image.convert("RGB"), (size, size), color="white")
            sheet.paste(tile, (left + column * step, top + row * step))
        top += rows[name] * step
    return sheet
