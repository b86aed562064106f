"""Figures of face images and of a set of them."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fervit_lib.figures.controls import add_slider
from fervit_lib.figures.theme import (
    INK,
    escape_label,
    escape_labels,
    new_figure,
    require,
)

_GAP = 8  # pixels between the images of a sheet
_TOP = 32  # pixels for its title


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
    num_rows = -(-len(images) // 7)
    columns = -(-len(images) // num_rows)  # ten images: two rows of five
    rows = [slice(start, start + columns) for start in range(0, len(images), columns)]
    return _draw_rows([("", images[row], captions[row]) for row in rows], title, size)


def contact_sheet(
    images_by_class: Mapping[str, Sequence[Image.Image]],
    size: int = 64,
    title: str = "Examples",
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Image.Image:
    """Images in rows of up to ten, one or more per class, with the class's name at the left.

    Args:
        images_by_class: images of any size and mode, each is fitted into a square.
        size: side of a square in pixels.
        captions: of the images of some rows.
    """
    require(len(images_by_class) > 0, "images_by_class", "at least one class", "none")
    rows = []
    for name, images in images_by_class.items():
        label = name if images else f"{name}: none"
        for start in range(0, max(1, len(images)), 10):
            part = images[start : start + 10]
            below = (captions or {}).get(name, [""] * len(images))[start : start + 10]
            rows.append(("" if start else label, part, below))
    return _draw_rows(rows, title, size)


def flip_through(pictures: Mapping[str, Image.Image], title: str, name: str) -> go.Figure:
    """Pictures of one size, of which a slider shows one, at the start the last.

    Args:
        pictures: by the label of the slider's step.
        name: of what the slider changes.
    """
    require(len(pictures) > 0, "pictures", "at least one picture", "none")
    sources = []
    for picture in pictures.values():
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        data = base64.b64encode(file.getvalue()).decode()
        sources.append(f"data:image/jpeg;base64,{data}")
    margin = {"t": 56, "b": 104, "l": 8, "r": 8}
    figure = new_figure(title, height=picture.height + 160, margin=margin)
    figure.add_image(source=sources[-1], hoverinfo="skip")
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    updates = [[{"source": [source]}] for source in sources]
    add_slider(figure, name, pictures, updates, active=len(sources) - 1)
    return figure


def _draw_rows(
    rows: Sequence[tuple[str, Sequence[Image.Image], Sequence[str]]], title: str, size: int
) -> Image.Image:
    """Rows of images, each with a name at its left and a caption below every image."""
    font = ImageFont.load_default(13)
    title_font = ImageFont.load_default(17)
    measure = ImageDraw.Draw(Image.new("1", (1, 1))).textbbox
    boxes = [measure((0, 0), caption, font) for *_, captions in rows for caption in captions]
    step, caption_height = np.max([(0, 0, size, 0), *boxes], axis=0).astype(int)[2:] + _GAP
    height = size + caption_height
    left = _GAP + max(round(font.getlength(name) + _GAP) for name, _, _ in rows)
    width = left + step * max(len(images) for _, images, _ in rows)
    width = max(width, round(title_font.getlength(title)) + 2 * _GAP)
    sheet = Image.new("RGB", (width, _TOP + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _TOP / 2), title, INK, title_font, anchor="lm")
    for row, (name, images, captions) in enumerate(rows):
        y = _TOP + row * height
        draw.text((_GAP, y + size / 2), name, INK, font, anchor="lm")
        for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
            x = left + column * step
            sheet.paste(ImageOps.pad(image.convert("RGB"), (size, size), color="white"), (x, y))
            draw.text((x, y + size), caption, INK, font)
    return sheet
