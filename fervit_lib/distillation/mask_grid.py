"""Images of masks side by side, during training and after it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import resize, to_pil_image
from torchvision.utils import draw_segmentation_masks, make_grid

from fervit_lib.datasets import IGNORE
from fervit_lib.models.segmentation import denormalise
from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write

_COLOURS = [(0, 114, 178), (128, 128, 128)]  # of persons and of ignored pixels
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
    pictures = (255 * denormalise(images.cpu())).byte()
    masks = masks.cpu()
    ignored = masks == IGNORE
    columns = {"mask": masks == 1}
    for name, values in logits.items():
        columns[name] = (values[:, 0].cpu() > 0) & ~ignored
    tiles = []
    for row, picture in enumerate(pictures):
        tiles.append(picture)
        pale = picture // 3 + 150
        for person in columns.values():
            regions = torch.stack([person[row], ignored[row]])
            tiles.append(draw_segmentation_masks(pale, regions, alpha=0.65, colors=_COLOURS))
    tiles = resize(torch.stack(tiles), [_SIDE, _SIDE])
    grid = make_grid(tiles, nrow=1 + len(columns), padding=_GAP, pad_value=255)
    picture = to_pil_image(F.pad(grid, (0, 0, _HEADER, 0), value=255))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12)
    for number, name in enumerate(["image", *columns]):
        centre = (number + 0.5) * (_SIDE + _GAP)
        draw.text((centre, _HEADER / 2), name.replace("_", " "), "#222222", font, anchor="mm")
    return picture


class SaveMaskGrids(Callback):
    """Write `pictures/epoch-001.png`, …: image, mask, teacher and student for fixed images.

    About five are written during a training, one of them after the last epoch.

    Args:
        folder: of the run.
        batch: images, masks and the teacher's logits.
        show: called with each grid, e.g. to display it in a notebook.
    """

    order = 63

    def __init__(
        self,
        folder: Path,
        batch: tuple[Tensor, Tensor, Tensor],
        show: Callable | None,
    ) -> None:
        self.folder = folder
        self.batch = batch
        self.show = show

    def after_epoch(self) -> None:
        number = self.epoch + 1
        every = max(1, self.n_epoch // 5)
        if number % every and number < self.n_epoch:
            return
        images, masks, teacher_logits = self.batch
        self.model.eval()
        with torch.no_grad():
            student_logits = self.model.student(images).float()
        logits = {"teacher": teacher_logits, "student": student_logits}
        grid = draw_mask_grid(images, masks, logits)
        self._write(grid, number)
        if self.show:
            self.show(grid)

    @distributed.rank_zero_only
    def _write(self, grid: Image.Image, number: int) -> None:
        with atomic_write(self.folder / "pictures" / f"epoch-{number:03d}.png") as temporary:
            grid.save(temporary, format="PNG")
