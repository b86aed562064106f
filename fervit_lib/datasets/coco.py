"""Person masks from COCO's annotation files: polygons, run lengths, crowds.

Format: cocodataset.org, *Data format*, `instances`. A crowd is an area with persons that nobody told apart: ignored.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fervit_lib.system.errors import MAX_PIXELS, check_symlink, explain_read_error

IGNORE = 255
CATEGORY = "person"
VAL_SHARE = 1 / 8  # of train, where val has to serve as test
_FINER = 4  # a polygon is drawn so much larger: Pillow paints every pixel that an outline touches


@dataclass(frozen=True)
class CocoMask:
    """The annotations of one image of `size` (width, height)."""

    size: tuple[int, int]
    annotations: tuple[dict[str, Any], ...]

    def draw(self, name: str) -> np.ndarray:
        """(height, width) uint8: 1 where a person is, 255 where only a crowd, else 0. `name`: of the image."""
        mask = np.zeros(self.size[::-1], np.uint8)
        for annotation in sorted(
            self.annotations, key=lambda a: not a.get("iscrowd", 0)
        ):  # persons over crowds
            where = f"annotation {annotation.get('id')} of the annotation file"
            with explain_read_error(Path(name), f"{where} is damaged", "download that again"):
                area = self._area(annotation["segmentation"], name, where)
            mask[area] = IGNORE if annotation.get("iscrowd") else 1
        return mask

    def _area(self, shape: Any, name: str, where: str) -> np.ndarray:
        if isinstance(shape, list):
            return _draw_polygons(shape, self.size)
        height, width = shape["size"]
        if (width, height) != self.size:  # before its runs are spread out
            raise ValueError(
                f"{name}: {where} is {width}x{height} pixels, expected {self.size[0]}x{self.size[1]} as the image; "
                f"the file is damaged: download it again"
            )
        return decode_rle(shape, name)


def find_coco_files(folder: Path, split: str) -> tuple[Path, tuple[float, float]]:
    """The annotation file that holds `split`, and which part of it (from, to)."""
    files = {
        kind: sorted((folder / "annotations").glob(f"instances_{kind}*.json"))
        for kind in ("train", "val", "test")
    }
    share = (0.0, 1.0)
    kind = split
    if not files["test"]:
        kind = "val" if split == "test" else "train"
        share = {"train": (VAL_SHARE, 1.0), "val": (0.0, VAL_SHARE), "test": (0.0, 1.0)}[split]
    if not files[kind]:
        raise ValueError(
            f"{folder / 'annotations'}: no instances_{kind}*.json in it; put COCO's file there"
        )
    return files[kind][0], share


def read_coco(file: Path, folder: Path, allow_empty: bool) -> tuple[list[Path], list[CocoMask]]:
    """The images with persons, and their annotations; with `allow_empty` the images without, too.

    Raises:
        ValueError: the file does not parse, has no category `person` or no such image, or the images' folder is gone.
    """
    with explain_read_error(
        file, "expected COCO's instances, but it does not parse", "download it again"
    ):
        content = json.loads(file.read_text(encoding="utf-8"))
        images = {image["id"]: _file_name(image["file_name"]) for image in content["images"]}
        sizes = {image["id"]: _size(image["width"], image["height"]) for image in content["images"]}
        people = {
            category["id"] for category in content["categories"] if category["name"] == CATEGORY
        }
        found: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
        for annotation in content["annotations"]:
            if annotation["category_id"] in people:
                found[annotation["image_id"]].append(annotation)
    if not people:
        known = ", ".join(sorted(str(category["name"]) for category in content["categories"])[:8])
        raise ValueError(
            f"{file}: no category {CATEGORY!r}, found {known}; give annotations of persons"
        )
    kept = [
        number
        for number in images
        if allow_empty or any(not a.get("iscrowd") for a in found[number])
    ]
    if not kept:
        raise ValueError(f"{file}: no image with a person in it; give annotations of persons")
    names = (file.stem.removeprefix("instances_"), "images", ".")
    places = [folder / name for name in names if (folder / name / images[kept[0]]).is_file()]
    if not places:
        raise ValueError(
            f"{folder}: expected {images[kept[0]]} of {file.name} in {names[0]}/ or images/; unpack COCO's images there"
        )
    masks = [CocoMask(sizes[number], tuple(found[number])) for number in kept]
    return [check_symlink(places[0] / images[number], folder) for number in kept], masks


def _file_name(name: str) -> str:
    """`name` if it stays in its folder, whatever the system's separators."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or not {"..", ":", "\0"}.isdisjoint({*path.parts, *name}):
        raise ValueError(f"file_name: expected a file within the images' folder, got {name!r}")
    return name


def _size(width: int, height: int) -> tuple[int, int]:
    if not (
        type(width) is type(height) is int
        and min(width, height) > 0
        and width * height <= MAX_PIXELS
    ):
        raise ValueError(
            f"width, height: expected at least 1 and {MAX_PIXELS:,} pixels at most, got {width}, {height}"
        )
    return width, height


def _draw_polygons(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """Corners x, y, x, y, … in pixels → (H, W) bool: pixels that lie inside by half or more."""
    canvas = Image.new("L", (size[0] * _FINER, size[1] * _FINER), 0)
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        if len(polygon) >= 6:
            # A corner at 0 is the edge of the first pixel, and Pillow's 0 is its middle.
            corners = np.asarray(polygon, float) * _FINER - 0.5
            draw.polygon(corners.tolist(), fill=255)
    return np.asarray(canvas.reduce(_FINER)) >= 128


def decode_rle(rle: dict[str, Any], name: str) -> np.ndarray:
    """Run lengths, plain or packed into text, → (H, W) bool. Runs go down the columns, and begin with what is not set.

    Raises:
        ValueError: the runs do not fill the picture.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    runs = np.asarray(_unpack(counts) if isinstance(counts, str | bytes) else counts, np.int64)
    if runs.sum() != height * width or (runs < 0).any():
        raise ValueError(
            f"{name}: run lengths add up to {runs.sum()} pixels, expected {height * width} = {width}x{height}; the "
            f"annotation file is damaged: download it again"
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def _unpack(text: str | bytes) -> list[int]:
    """COCO's text form: numbers of 5-bit digits from 48 up, low digits first, bit 6 says more; differences to the run
    before last from the third on.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for byte in text.encode("ascii") if isinstance(text, str) else text:
        digit = byte - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs
