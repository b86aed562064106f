"""Images of masks side by side, during training and after it."""

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

_PERSON_COLOUR = np.array((0, 114, 178))
_SIDE = 112  # of one tile, pixels
_GAP = 4
_HEADER = 22


def draw_mask_grid(images: Tensor, masks: Tensor, logits: Mapping[str, Tensor]) -> Image.Image:
    """Draw one row per image: the image, its mask, and the mask predicted by each of `logits`.

    Ignored pixels are grey.

    Args:
        images: (B, 3, S, S), normalised.
        masks: (B, S, S) of 0, 1, 255.
        logits: (B, 1, S, S) by column name.
    """
    pictures = (255 * denormalise(images.cpu())).byte().permute(0, 2, 3, 1).numpy()
    masks = masks.cpu()
    ignored = (masks == IGNORE).numpy()
    columns = {"mask": (masks == 1).numpy()}
    for name, values in logits.items():
        columns[name] = (values[:, 0].cpu() > 0).numpy()
    step = _SIDE + _GAP
    size = (step * (1 + len(columns)), _HEADER + step * len(pictures))
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    for number, name in enumerate(["image", *columns]):
        centre = (number * step + _SIDE / 2, _HEADER / 2)
        font = ImageFont.load_default(12)
        draw.text(centre, name.replace("_", " "), "#222222", font, anchor="mm")

    def paste(tile: np.ndarray, column: int, row: int) -> None:
        tile_image = Image.fromarray(tile).resize((_SIDE, _SIDE))
        grid.paste(tile_image, (column * step, _HEADER + row * step))

    for row, picture in enumerate(pictures):
        paste(picture, 0, row)
        person = (0.35 * picture + 0.65 * _PERSON_COLOUR).astype(np.uint8)
        for number, mask in enumerate(columns.values(), 1):
            tile = picture // 3 + 150
            tile[mask[row]] = person[mask[row]]
            tile[ignored[row]] = 128
            paste(tile, number, row)
    return grid


class SaveMaskGrids(Callback):
    """Write `pictures/epoch-001.png`, …: image, mask, teacher and student for fixed images.

    Args:
        folder: of the run.
        batch: images, masks, and the teacher's logits or None.
        every: write each `every`-th epoch, and the last one.
        show: called with each grid, e.g. to display it in a notebook.
    """

    order = 63

    def __init__(
        self,
        folder: Path,
        batch: tuple[Tensor, Tensor, Tensor | None],
        every: int = 1,
        show: Callable[[Any], None] | None = None,
    ) -> None:
        self.folder = folder
        self.batch = batch
        self.every = every
        self.show = show

    def after_epoch(self) -> None:
        number = self.epoch + 1
        if number % self.every and number < self.n_epoch:
            return
        images, masks, teacher_logits = self.batch
        logits = {} if teacher_logits is None else {"teacher": teacher_logits}
        self.model.eval()
        with torch.no_grad():
            logits["student"] = self.model.student(images).float()
        grid = draw_mask_grid(images, masks, logits)
        self._write(grid, number)
        if self.show:
            self.show(grid)

    @distributed.rank_zero_only
    def _write(self, grid: Image.Image, number: int) -> None:
        with atomic_write(self.folder / "pictures" / f"epoch-{number:03d}.png") as temporary:
            grid.save(temporary, format="PNG")
