"""Masks side by side as pictures, while a student trains and after."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fervit_lib.datasets import IGNORE
from fervit_lib.models.segmentation import denormalise
from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write

_PERSON, _GAP, _HEAD = (0, 114, 178), 4, 22


def mask_sheet(
    images: Tensor, masks: Tensor, logits: Mapping[str, Tensor], side: int = 112
) -> Image.Image:
    """A row an image: the picture, its mask, and what each of `logits` finds; ignored pixels are grey.

    Args:
        images: (B, 3, S, S) normalised. masks: (B, S, S) of 0, 1, 255. logits: (B, 1, S, S) each, by name.
        side: of a tile, pixels.
    """
    pictures = (255 * denormalise(images.cpu())).byte().permute(0, 2, 3, 1).numpy()
    ignored = (masks.cpu() == IGNORE).numpy()
    columns = {"mask": (masks.cpu() == 1).numpy()} | {
        k: (v[:, 0].cpu() > 0).numpy() for k, v in logits.items()
    }
    across, font = side + _GAP, ImageFont.load_default(12)
    sheet = Image.new("RGB", (across * (1 + len(columns)), _HEAD + across * len(pictures)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(["image", *columns]):
        draw.text(
            (number * across + side / 2, _HEAD / 2),
            name.replace("_", " "),
            "#222222",
            font,
            anchor="mm",
        )
    for row, picture in enumerate(pictures):
        top = _HEAD + row * across
        sheet.paste(Image.fromarray(picture).resize((side, side)), (0, top))
        for number, found in enumerate(columns.values(), 1):
            tile = picture // 3 + 150
            tile[found[row]] = (0.35 * picture + 0.65 * np.array(_PERSON)).astype(np.uint8)[
                found[row]
            ]
            tile[ignored[row]] = 128
            sheet.paste(Image.fromarray(tile).resize((side, side)), (number * across, top))
    return sheet


class SavePictures(Callback):
    """Write `pictures/epoch-001.png`, …: image, mask, teacher and student, of the same images each time.

    Args:
        batch: images and masks, and the teacher's logits or None.
        every: epochs from picture to picture; the last epoch has one, too.
        show: called with each sheet, e.g. to show it in a notebook.
    """

    order = 63

    def __init__(
        self,
        folder: Path,
        batch: tuple[Tensor, Tensor, Tensor | None],
        every: int = 1,
        show: Callable[[Any], None] | None = None,
    ) -> None:
        self.folder, self.batch, self.every, self.show = folder, batch, every, show

    def after_epoch(self) -> None:
        if (self.epoch + 1) % self.every and self.epoch + 1 < self.n_epoch:
            return
        images, masks, teacher_logits = self.batch
        self.model.eval()
        with torch.no_grad():
            logits = {"student": self.model.student(images).float()}
        if teacher_logits is not None:
            logits = {"teacher": teacher_logits} | logits
        sheet = mask_sheet(images, masks, logits)
        self._write(sheet)
        if self.show:
            self.show(sheet)

    @distributed.rank_zero_only
    def _write(self, sheet: Image.Image) -> None:
        with atomic_write(
            self.folder / "pictures" / f"epoch-{self.epoch + 1:03d}.png"
        ) as temporary:
            sheet.save(temporary, format="PNG")
