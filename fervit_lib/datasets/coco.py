"""Person masks from COCO's annotation files: polygons, run lengths (RLE), crowds.

Format: cocodataset.org, *Data format*, `instances`. A crowd is an area with persons that were not
told apart: it is ignored in training and evaluation.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fervit_lib.system.errors import MAX_PIXELS, check_symlink, explain_read_error

IGNORE = 255
CATEGORY = "person"
VAL_SHARE = 1 / 8  # of train, where COCO's val is used as test
# Pixels along the outline of one polygon. pycocotools needs about 80 bytes for each; an outline in
# COCO has a few thousand.
MAX_OUTLINE = 5_000_000


@dataclass(frozen=True)
class CocoMask:
    """The annotations of one image of `size` (width, height)."""

    size: tuple[int, int]
    annotations: list[dict[str, Any]]

    def draw(self, name: str) -> np.ndarray:
        """(height, width) uint8: 1 for a person, 255 for a crowd without a person in it, else 0.

        Args:
            name: of the image, for error messages.
        """
        mask = np.zeros(self.size[::-1], np.uint8)
        # Crowds first: persons are drawn over them.
        for annotation in sorted(self.annotations, key=lambda a: not a.get("iscrowd", 0)):
            trouble = f"annotation {annotation.get('id')} of the annotation file is damaged"
            with explain_read_error(Path(name), trouble, "download that file again"):
                area = decode_segmentation(annotation["segmentation"], self.size)
            # Later persons may cover earlier ones: the mask does not tell persons apart.
            mask[area] = IGNORE if annotation.get("iscrowd") else 1
        return mask


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool area of an annotation.

    Args:
        segmentation: a list of polygons [x, y, x, y, …] in pixels; or run lengths {size, counts},
            uncompressed (a list) or compressed (text), which go down the columns and start with 0s.
        size: (width, height) of the image.

    Raises:
        ValueError: the size differs, the runs do not fill the image, or a polygon is damaged.
    """
    from pycocotools import mask as coco_mask

    width, height = size
    if isinstance(segmentation, list):
        polygons = [_check_polygon(polygon, size) for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return np.zeros((height, width), bool)
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return coco_mask.decode(rle).astype(bool)
    if segmentation["size"] != [height, width]:
        raise ValueError(
            f"size: expected {width}x{height} as the image, got {segmentation['size'][::-1]}"
        )
    # pycocotools does not check run lengths: damaged ones read and write beyond its arrays, and
    # runs that end early leave the rest of the mask uninitialised.
    counts = segmentation["counts"]
    unfilled = ValueError(f"counts: expected run lengths that fill {width}x{height} pixels")
    if isinstance(counts, list):
        runs = np.asarray(counts, np.int64).tolist()
        if min(runs) < 0 or sum(runs) != width * height:
            raise unfilled
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    # Digits of base 32 from "0" to "o"; from "P" on another digit of the same number follows.
    if not re.fullmatch("[0-o]*[0-O]", counts):
        raise unfilled
    mask = coco_mask.decode({"size": [height, width], "counts": counts})
    # Runs that fill the image are what encoding the mask gives again.
    if coco_mask.encode(mask)["counts"] != counts.encode():
        raise unfilled
    return mask.astype(bool)


def _check_polygon(polygon: list[float], size: tuple[int, int]) -> list[float]:
    """The corners of a polygon, moved into the image; refuses what would fill the memory."""
    corners = np.asarray(polygon, float).reshape(-1, 2)
    if not np.isfinite(corners).all():
        raise ValueError("segmentation: expected finite corners of polygons")
    corners = corners.clip(0, size)
    outline = np.abs(np.diff(corners, axis=0)).max(1).sum()
    if outline > MAX_OUTLINE:
        raise ValueError(
            f"segmentation: expected an outline of at most {MAX_OUTLINE:,} pixels, "
            f"got {outline:,.0f}"
        )
    return corners.ravel().tolist()


def find_coco_files(folder: Path, split: str) -> tuple[Path, tuple[float, float]]:
    """The annotation file that holds `split`, and the part of it that is `split` (from, to).

    Raises:
        ValueError: there is no such file.
    """
    annotations = folder / "annotations"
    kind = split
    share = (0.0, 1.0)
    if not any(annotations.glob("instances_test*.json")):
        kind = "val" if split == "test" else "train"
        share = {"train": (VAL_SHARE, 1.0), "val": (0.0, VAL_SHARE), "test": (0.0, 1.0)}[split]
    if files := sorted(annotations.glob(f"instances_{kind}*.json")):
        return files[0], share
    raise ValueError(f"{annotations}: no instances_{kind}*.json in it; put COCO's file there")


def read_coco(file: Path, folder: Path, allow_empty: bool) -> tuple[list[Path], list[CocoMask]]:
    """The images with persons and their annotations; with `allow_empty` also images without.

    Raises:
        ValueError: the file does not parse or has no category `person`, no image has a person, or
            the folder of the images is missing.
    """
    trouble = "expected COCO's instances, but it does not parse"
    with explain_read_error(file, trouble, "download it again"):
        content = json.loads(file.read_text(encoding="utf-8"))
        names = {}
        masks = {}
        for image in content["images"]:
            names[image["id"]] = _file_name(image["file_name"])
            masks[image["id"]] = CocoMask(_size(image["width"], image["height"]), [])
        categories = {category["id"]: category["name"] for category in content["categories"]}
        for annotation in content["annotations"]:
            if categories.get(annotation["category_id"]) == CATEGORY:
                masks[annotation["image_id"]].annotations.append(annotation)
    if CATEGORY not in categories.values():
        raise ValueError(
            f"{file}: no category {CATEGORY!r}, found {list(categories.values())[:8]}; "
            f"give annotations of persons"
        )
    chosen = [
        image_id
        for image_id, mask in masks.items()
        if allow_empty or not all(a.get("iscrowd") for a in mask.annotations)
    ]
    if not chosen:
        raise ValueError(f"{file}: no image with a person in it; give annotations of persons")
    folders = [folder / file.stem.removeprefix("instances_"), folder / "images", folder]
    for images in folders:
        if (images / names[chosen[0]]).is_file():
            paths = [check_symlink(images / names[image_id], folder) for image_id in chosen]
            return paths, [masks[image_id] for image_id in chosen]
    raise ValueError(
        f"{folder}: expected {names[chosen[0]]} of {file.name} in {folders[0].name}/ or images/; "
        f"unpack COCO's images there"
    )


def _file_name(name: str) -> str:
    """`name` if it stays within its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"file_name: expected a file within the images' folder, got {name!r}")
    return name


def _size(width: int, height: int) -> tuple[int, int]:
    integers = type(width) is type(height) is int
    if not integers or min(width, height) < 1 or width * height > MAX_PIXELS:
        raise ValueError(
            f"width, height: expected at least 1 and {MAX_PIXELS:,} pixels in all, got {width}, "
            f"{height}"
        )
    return width, height
