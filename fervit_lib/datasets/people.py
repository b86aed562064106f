"""Person photographs with masks, from folders of images and masks or from COCO.

A mask says of each pixel: 1 a person, 0 no person, 255 ignored in loss and metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps

from fervit_lib.datasets.coco import IGNORE, CocoMask, find_coco_files, read_coco
from fervit_lib.datasets.image_files import (
    SUFFIXES,
    is_ignored,
    is_whole_jpeg,
    read_image,
    to_grey_or_rgb,
)
from fervit_lib.datasets.skipped import UNKNOWN_SUFFIX, Skipped
from fervit_lib.datasets.splits import SPLITS
from fervit_lib.datasets.toy_set import MARKER
from fervit_lib.system.errors import check_file_names, check_symlink
from fervit_lib.system.names import check_choice, check_share
from fervit_lib.system.prefetch import PrefetchPool

RESIZE = ("letterbox", "stretch")
_SPLIT_SEED = 2017  # fixed: a test image must never become a training image in another run
_SHARES = {"train": (0.0, 0.7), "val": (0.7, 0.8), "test": (0.8, 1.0)}  # of a set without splits
_PADDING = (124, 116, 104)  # ImageNet's mean colour, which normalisation turns into 0


@dataclass(frozen=True, eq=False)
class PeopleDataset:
    """`[i]` → (RGB image, mask (H, W) uint8 of 0, 1 and 255), upright; opened one by one."""

    images: tuple[Path, ...]
    masks: tuple[Path | CocoMask, ...]
    source: Path
    synthetic: bool  # drawn by code: SYNTHETIC.json lies beside the splits
    allow_empty: bool
    # Files and images that are left out.
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Load one image and its mask.

        Raises:
            ValueError: image and mask differ in shape, or the mask has no person in it.
            OSError: a file is missing, truncated or no image; the message names it.
        """
        path = self.images[index]
        mask = self.masks[index]
        image = read_image(path).convert("RGB")
        if isinstance(mask, Path):
            name = str(mask)
            values = _read_mask(mask)
        else:
            name = f"{path}: the annotations"
            values = mask.draw(str(path))
        # A mask that was drawn on the pixels as stored is turned as the image was. It is recognised
        # by its shape, so only if it is rotated by 90°.
        if values.shape[::-1] != image.size:
            stored = Image.fromarray(values)
            stored.info["exif"] = image.info["stored_exif"]
            values = np.asarray(ImageOps.exif_transpose(stored))
        if values.shape[::-1] != image.size:
            raise ValueError(
                f"{name}: {values.shape[1]}x{values.shape[0]} pixels, expected {image.width}x"
                f"{image.height} as its image; draw it again at the size of the image"
            )
        if not self.allow_empty and not (values == 1).any():
            raise ValueError(
                f"{name}: no pixel of a person in it, expected at least one; mark the person, "
                f"remove the image, or give allow_empty=True if images without people are meant"
            )
        return image, values

    def files(self, index: int) -> str:
        """The files of an image and its mask, for an error message."""
        mask = self.masks[index]
        also = f" or {mask}" if isinstance(mask, Path) else ""
        return f"{self.images[index]}{also}"

    def subset(self, indices: Any) -> Self:
        """The images at `indices` (integers, a boolean mask or a slice), in that order."""
        rows = np.arange(len(self))[indices]
        images = tuple(self.images[row] for row in rows)
        return replace(self, images=images, masks=tuple(self.masks[row] for row in rows))

    def without_unreadable(self) -> Self:
        """The images whose files can be read, and so can their masks; the others are `skipped`.

        Of a JPEG only both ends are read: 100,000 take seconds. What is damaged in between is
        decoded nevertheless, as a rule. Other files are decoded.

        Raises:
            ValueError: none can be read.
            TimeoutError: a file hangs.
        """
        with PrefetchPool(16) as pool:
            problems = list(pool.map(self._problem, range(len(self)), self.files))
        added = tuple(
            Skipped(path.relative_to(self.source).as_posix(), problem)
            for path, problem in zip(self.images, problems, strict=True)
            if problem
        )
        if len(added) == len(self):
            raise ValueError(f"{self.images[0]}: {problems[0]}, as none of {len(self)}; add images")
        readable = self.subset([not problem for problem in problems])
        return replace(readable, skipped=self.skipped + added)

    def _problem(self, index: int) -> str:
        """Why an image or its mask cannot be read; empty if both can."""
        image, mask = self.images[index], self.masks[index]
        try:
            for file in (image, mask):
                if isinstance(file, Path) and not is_whole_jpeg(file):
                    read_image(file, as_stored=True)
        except OSError as error:
            return str(error).removeprefix(f"{image}: ")
        return ""

    def part(self, fraction: float, seed: int) -> Self:
        """A random part of at least one image.

        With the same seed a smaller part is a subset of every larger one.

        Raises:
            ValueError: `fraction` is not in (0, 1].
        """
        check_share("fraction", fraction)
        # The first of one random order, so that a smaller part is nested in a larger one.
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(np.sort(order[: max(1, round(fraction * len(self)))]))


def load_people(path: Path | str, split: str, allow_empty: bool = False) -> PeopleDataset:
    """Load one split of a set of person photographs.

    Masks are grey 0/255 or 0/1 (with a 1 in it, 255 is ignored), of 1, 8 or 16 bits; or an alpha
    channel; or have a palette. A palette of greys is read as grey. Of a palette of colours, as
    Pascal VOC's, index 255 is ignored, black (index 0 where no pixel is black) is no person, and
    any other colour a person. A palette of one colour means nothing: its indices are read so.

    Args:
        path: a folder with `{train,val,test}/{images,masks}/*`; or with `images/` and `masks/`
            alone, of which a fixed 70/10/20 % become train/val/test; a mask has the name of its
            image with any suffix. Or COCO's folder: `annotations/instances_{train,val}2017.json`
            beside `train2017/` and `val2017/` (also in `images/`), of which the category `person`
            is used; other layouts of COCO see `coco.SPLIT_FILES`. Where COCO has no test file, val
            is test, and an eighth of train is val.
        split: train, val or test.
        allow_empty: whether images without a person are accepted.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: unknown split; an image without mask or a mask without image; no images.
    """
    path = Path(path)
    check_choice("split", split, SPLITS)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such folder; give one with {{train,val,test}}/{{images,masks}}/, with "
            f"images/ and masks/, or COCO's"
        )
    masks: Sequence[Path | CocoMask]
    share: tuple[float, float] | None = (0.0, 1.0)
    has_masks = (path / "masks").is_dir() or (path / split / "masks").is_dir()
    if not has_masks and (coco := find_coco_files(path, split)):
        file, share = coco
        images, masks, skipped = read_coco(file, path, allow_empty)
    elif (path / split / "images").is_dir():
        images, masks, skipped = _pairs(check_symlink(path / split, path), path)
    elif (path / "images").is_dir():
        share = None
        images, masks, skipped = _pairs(path, path)
    else:
        raise ValueError(
            f"{path}: expected {split}/images/, images/ or annotations/ in it, found "
            f"{sorted(p.name for p in path.iterdir())[:5]}"
        )
    synthetic = (path / MARKER).is_file()
    people = PeopleDataset(
        tuple(images), tuple(masks), path, synthetic, allow_empty, tuple(skipped)
    )
    # Sorted below: a split that is the whole set keeps its order.
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(people))
    first, last = (round(edge * len(people)) for edge in share or _SHARES[split])
    if first == last:
        raise ValueError(
            f"{path}: {len(people)} images are too few to split into train, val and test; add some"
        )
    return people.subset(np.sort(order[first:last]))


def _pairs(folder: Path, source: Path) -> tuple[list[Path], list[Path], list[Skipped]]:
    """The images of a folder and their masks, matched by name without suffix, and other files."""
    skipped: list[Skipped] = []
    images, masks = (_by_stem(folder / kind, source, skipped) for kind in ("images", "masks"))
    if not images:
        raise ValueError(f"{folder / 'images'}: expected images ({', '.join(SUFFIXES)})")
    if alone := sorted(images.keys() ^ masks.keys()):
        name = alone[0]
        existing, missing = ("image", "mask") if name in images else ("mask", "image")
        raise ValueError(
            f"{images.get(name) or masks[name]}: {existing} without {missing}, one of "
            f"{len(alone)}; expected {folder / missing}s/{name}.*; add it, or remove the {existing}"
        )
    return list(images.values()), [masks[name] for name in images], skipped


def _by_stem(files: Path, source: Path, skipped: list[Skipped]) -> dict[str, Path]:
    """The images in `files` by name without suffix; adds other files to `skipped`."""
    images: dict[str, Path] = {}
    paths = sorted(check_symlink(files, source).glob("*"))
    check_file_names(source, paths)
    for path in paths:
        if is_ignored(path):
            continue
        # A pipe with the name of an image would be waited for.
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            skipped.append(Skipped(path.relative_to(source).as_posix(), UNKNOWN_SUFFIX))
        elif path.stem in images:
            raise ValueError(
                f"{path}: expected one file of this name, got {images[path.stem].name}, too; "
                f"remove one"
            )
        else:
            images[path.stem] = check_symlink(path, source)
    return images


def _read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 of 0, 1 and 255, from any of the forms in which masks are stored."""
    mask = read_image(path, kind="a mask", as_stored=True)
    if mask.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in mask.info:
        alpha = np.asarray(mask.convert("RGBA").getchannel("A"))
        # If every pixel is opaque, the mask is in the colours.
        if alpha.min() < 255:
            return (alpha > 127).astype(np.uint8)
    if mask.mode == "P":
        palette = np.array(mask.getpalette()).reshape(-1, 3)
        is_one_colour = (palette == palette[0]).all()
        if is_one_colour or (palette != palette[:, :1]).any():
            indices = np.asarray(mask)
            background = indices == 0
            if not is_one_colour:
                black = (np.asarray(mask.convert("RGB")) == 0).all(-1) & (indices != IGNORE)
                # A tool that chose the palette's order may put any colour first.
                background = black if black.any() else background
            return np.where(indices == IGNORE, IGNORE, ~background).astype(np.uint8)
    # 16-bit masks of 0 and 1, or 0 and 255, are not scaled: they would be black.
    grey = np.asarray(mask if mask.mode[0] in "IF" else to_grey_or_rgb(mask).convert("L"))
    if set(np.unique(grey)) <= {0, 1, IGNORE} and (grey == 1).any():
        return grey.astype(np.uint8)
    return (grey > (127 if grey.max() <= 255 else grey.max() / 2)).astype(np.uint8)


def resize_image_and_mask(
    image: Image.Image, mask: np.ndarray, size: int, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """Resize image and mask to a square: (size, size, 3) and (size, size) uint8.

    Args:
        how: `letterbox` keeps the proportions and pads with ImageNet's mean colour, which the mask
            ignores; `stretch` does not keep them.
    """
    check_choice("resize", how, RESIZE)
    values = Image.fromarray(mask)
    if how == "stretch":
        image = image.resize((size, size), Image.Resampling.BILINEAR)
        values = values.resize((size, size), Image.Resampling.NEAREST)
    else:
        image = ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, _PADDING)
        values = ImageOps.pad(values, (size, size), Image.Resampling.NEAREST, IGNORE)
    return np.array(image), np.array(values)
