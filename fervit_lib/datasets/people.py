"""Person photographs with masks, from folders of images and masks or from COCO, as one `PeopleDataset`.

A mask says of each pixel: 1 a person, 0 none, 255 to be ignored, in loss and metric alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps

from fervit_lib.datasets.coco import IGNORE, CocoMask, find_coco_files, read_coco
from fervit_lib.datasets.faces import SPLITS, SUFFIXES
from fervit_lib.datasets.toy_set import MARKER
from fervit_lib.system.errors import check_image_size, check_symlink

RESIZE = ("letterbox", "stretch")
SPLIT_SEED = 2017  # fixed: a test image must never become a training image in another run
_PAD = (124, 116, 104)  # ImageNet's mean colour, which normalisation makes 0
_SHARES = {"train": (0.0, 0.7), "val": (0.7, 0.8), "test": (0.8, 1.0)}  # of a set without splits
_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True, eq=False)
class PeopleDataset:
    """`[i]` → (RGB image, mask (H, W) uint8 of 0, 1 and 255), upright, opened one by one."""

    images: tuple[Path, ...]
    masks: tuple[Path | CocoMask, ...]
    source: Path
    synthetic: bool = False  # drawn by code: the marker SYNTHETIC.json lies beside the splits
    allow_empty: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Raises ValueError where image and mask differ in shape, or the mask has no person in it.

        OSError that names the file where it is missing, truncated or no image.
        """
        path, mask = self.images[index], self.masks[index]
        image, orientation = _open(path)
        if isinstance(mask, Path):
            values, name = _read_mask(mask), str(mask)
        else:
            values, name = mask.draw(str(path)), f"{path}: the annotations"
        values = _turn_to(values, image, orientation, name, path)
        if not self.allow_empty and not (values == 1).any():
            raise ValueError(
                f"{name}: no pixel of a person in it, expected at least one; mark the person, take the image out, or "
                f"say allow_empty=True if images without people are meant"
            )
        return image, values

    def files(self, index: int) -> str:
        """The files that an image and its mask are in."""
        image, mask = self.images[index], self.masks[index]
        return f"{image} or {mask}" if isinstance(mask, Path) else str(image)

    def subset(self, indices: Any) -> Self:
        """The images at `indices` (integers, a boolean mask or a slice), in that order."""
        chosen = np.arange(len(self))[indices]
        return replace(
            self,
            images=tuple(self.images[i] for i in chosen),
            masks=tuple(self.masks[i] for i in chosen),
        )

    def part(self, fraction: float, seed: int) -> Self:
        """A random part, at least one image; with one seed a smaller part lies within every larger one."""
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: expected a share in (0, 1], got {fraction}")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(np.sort(order[: max(1, round(fraction * len(self)))]))


def load_people(path: Path | str, split: str, allow_empty: bool = False) -> PeopleDataset:
    """Load one split of a set of person photographs.

    Args:
        path: a folder with `{train,val,test}/{images,masks}/*`, or with `images/` and `masks/` alone, of which 70/10/20
            % become train/val/test, always the same; masks have their image's name with any suffix. Or COCO's folder:
            `annotations/instances_{train,val}2017.json` beside `train2017/` and `val2017/`; the category `person`.
            Where COCO has no test file, val is its test, and an eighth of train becomes val.
        split: train, val or test.
        allow_empty: images without a person are meant, and no error.

    Masks are grey 0/255 or 0/1, an alpha channel, or a palette: index 0 nothing, 255 ignored, any other a person.

    Raises:
        FileNotFoundError: `path` is not there.
        ValueError: unknown split; a mask without image, or the other way round; nothing found.
    """
    path = Path(path)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such folder; give one with {{train,val,test}}/{{images,masks}}/, images/ and masks/, or COCO's"
        )
    synthetic = (path / MARKER).is_file()
    masks: Sequence[Path | CocoMask]
    if (path / "annotations").is_dir():
        file, share = find_coco_files(path, split)
        images, masks = read_coco(file, path, allow_empty)
    elif (path / split / "images").is_dir():
        images, masks = _pairs(check_symlink(path / split, path))
        share = (0.0, 1.0)
    elif (path / "images").is_dir():
        images, masks = _pairs(path)
        share = _SHARES[split]
    else:
        found = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"{path}: expected {split}/images/, images/ or annotations/ in it, found {found}"
        )
    people = PeopleDataset(tuple(images), tuple(masks), path, synthetic, allow_empty)
    if share == (0.0, 1.0):
        return people
    order = np.random.default_rng(SPLIT_SEED).permutation(len(people))
    first, last = (round(edge * len(people)) for edge in share)
    if first == last:
        raise ValueError(
            f"{path}: {len(people)} images are too few to part them into train, val and test; add some"
        )
    return people.subset(np.sort(order[first:last]))


def resize_picture(
    image: Image.Image, mask: np.ndarray, size: int, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask to a square: (size, size, 3) and (size, size) uint8.

    Args:
        how: `letterbox` keeps proportions, and pads with ImageNet's mean colour, ignored in the mask; `stretch` does
            not keep them.
    """
    if how not in RESIZE:
        raise ValueError(f"resize: expected one of {', '.join(RESIZE)}, got {how!r}")
    scale = size / max(image.size)
    width, height = (
        (size, size) if how == "stretch" else (max(1, round(side * scale)) for side in image.size)
    )
    pixels = np.full((size, size, 3), _PAD, np.uint8)
    values = np.full((size, size), IGNORE, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    place = np.s_[top : top + height, left : left + width]
    pixels[place] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    values[place] = np.asarray(
        Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    )
    return pixels, values


def _open(path: Path) -> tuple[Image.Image, int]:
    """The image upright in RGB, and the EXIF orientation that it was stored in (1: upright)."""
    try:
        with Image.open(path) as image:
            orientation = check_image_size(image).getexif().get(_ORIENTATION, 1)
            return ImageOps.exif_transpose(image).convert("RGB"), orientation
    except (
        Exception
    ) as error:  # on broken bytes Pillow raises anything from SyntaxError to struct.error
        raise OSError(f"{path}: cannot be read as an image ({error})") from error


def _read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 of 0, 1 and 255, from any of the ways in which people store masks."""
    try:
        with Image.open(path) as file:
            mask = ImageOps.exif_transpose(check_image_size(file))
            mask.load()
    except Exception as error:
        raise OSError(f"{path}: cannot be read as a mask ({error})") from error
    if mask.mode == "P":
        indices = np.asarray(mask)
        return np.where(indices == IGNORE, IGNORE, indices > 0).astype(np.uint8)
    if mask.mode in ("LA", "RGBA", "PA"):
        alpha = np.asarray(mask.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:  # else the mask is in the colours, and alpha says nothing
            return (alpha > 127).astype(np.uint8)
    grey = np.asarray(mask.convert("L"))
    if set(np.unique(grey)) <= {0, 1, IGNORE} and (grey == 1).any():
        return grey.copy()
    return (grey > 127).astype(np.uint8)


def _turn_to(
    mask: np.ndarray, image: Image.Image, orientation: int, name: str, path: Path
) -> np.ndarray:
    """The mask as its image lies: one that was drawn on the pixels as they are stored is turned with them."""
    size = (image.height, image.width)
    if (
        mask.shape != size and mask.shape == size[::-1] and orientation > 4
    ):  # 5 to 8: a quarter turn
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        turned = Image.fromarray(mask)
        turned.info["exif"] = exif.tobytes()
        mask = np.asarray(ImageOps.exif_transpose(turned))
    if mask.shape != size:
        raise ValueError(
            f"{name}: {mask.shape[1]}x{mask.shape[0]} pixels, expected {image.width}x{image.height} as {path.name}; "
            f"make it anew at the image's size"
        )
    return mask


def _pairs(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images of a folder and their masks, by name."""
    images, masks = (
        {
            p.stem: check_symlink(p, folder)
            for p in sorted(check_symlink(folder / kind, folder).glob("*"))
            if p.suffix.lower() in SUFFIXES and p.is_file()  # no pipe, which would be waited for
        }
        for kind in ("images", "masks")
    )
    if not images:
        raise ValueError(
            f"{folder / 'images'}: no images in it ({', '.join(sorted(SUFFIXES))}), expected some"
        )
    for ours, theirs, kind, other in (
        (masks, images, "mask", "image"),
        (images, masks, "image", "mask"),
    ):
        if alone := sorted(set(ours) - set(theirs)):
            raise ValueError(
                f"{ours[alone[0]]}: {kind} without {other}, one of {len(alone)}; expected {folder / (other + 's')}/"
                f"{alone[0]}.*; add it, or take the {kind} out"
            )
    return list(images.values()), [masks[name] for name in images]
