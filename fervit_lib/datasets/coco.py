"""Person masks from COCO's annotation files: polygons, run lengths (RLE), crowds.

Format: cocodataset.org, *Data format*, `instances`, and as Ultralytics, Roboflow, CVAT, Label
Studio, FiftyOne and converters write it. A crowd is an area with persons that were not told apart:
it is ignored in training and evaluation. An image with a person that has no segmentation is left
out.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from fervit_lib.datasets.skipped import Skipped
from fervit_lib.system.errors import (
    MAX_PIXELS,
    check_file_names,
    check_symlink,
    explain_read_error,
)

IGNORE = 255
CATEGORY = "person"  # in any case
# Where the annotations of a split lie, by who writes them so; the first that exists counts.
SPLIT_FILES = (
    "annotations/instances_{}*.json",  # COCO
    "annotations/person_keypoints_{}*.json",
    "annotations/{}*.json",
    "{}*/_annotations.coco.json",  # Roboflow
)
# Those of a set without splits: CVAT, Label Studio, FiftyOne, Roboflow, labelme2coco.
WHOLE_FILES = (
    "annotations/instances_default.json",
    "result.json",
    "labels.json",
    "_annotations.coco.json",
    "annotations.json",
)
NOT_SEGMENTED = "a person in it has no segmentation"
NOT_LISTED = "its image is not listed in the annotation file"
VAL_SHARE = 1 / 8  # of train, where COCO's val is used as test
# Pixels along the outline of one polygon. pycocotools needs about 80 bytes for each; an outline in
# COCO has a few thousand.
MAX_OUTLINE = 5_000_000


@dataclass(frozen=True)
class CocoMask:
    """The annotations of one image."""

    image: str  # its name, as `file_name` in the annotations
    size: tuple[int, int]  # width, height
    annotations: list[dict]  # each is segmented

    def draw(self, name: str) -> np.ndarray:
        """(height, width) uint8: 1 for a person, 255 for a crowd without one, else 0.

        Args:
            name: of the image, for error messages.
        """
        mask = np.zeros(self.size[::-1], np.uint8)
        # Crowds first: persons are drawn over them.
        for annotation in sorted(self.annotations, key=_is_person):
            trouble = f"annotation {annotation.get('id')} of the annotation file is damaged"
            with explain_read_error(Path(name), trouble, "mend it, or remove it"):
                area = decode_segmentation(annotation["segmentation"], self.size)
            # Later persons may cover earlier ones: the mask does not tell persons apart.
            mask[area] = 1 if _is_person(annotation) else IGNORE
        return mask


def _is_person(annotation: dict) -> bool:
    return not annotation.get("iscrowd")


def _parts(segmentation: Any) -> list:
    """Polygons and run lengths. A point or a line is left out: it has no area."""
    if not isinstance(segmentation, list):
        return [segmentation] if segmentation else []
    # Some converters leave out the list around a single polygon.
    is_flat = bool(segmentation) and isinstance(segmentation[0], int | float)
    parts = [segmentation] if is_flat else segmentation
    return [p for p in parts if isinstance(p, dict) or len(p) >= 6 or np.size(p) >= 6]


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool area of an annotation.

    Args:
        segmentation: a list of polygons [x, y, x, y, …] in pixels; or run lengths {size, counts},
            uncompressed (a list) or compressed (text), which go down the columns and start with 0s;
            or a list of run lengths, or of both.
        size: (width, height) of the image.

    Raises:
        ValueError: the size differs, the runs do not fill the image, or a polygon is damaged.
    """
    width, height = size
    area = np.zeros((height, width), bool)
    for part in _parts(segmentation):
        if isinstance(part, dict):
            area |= _decode_runs(part, size)
            continue
        corners = np.asarray(part, float).reshape(-1, 2)
        if not np.isfinite(corners).all():
            raise ValueError("segmentation: expected finite corners of polygons")
        corners = corners.clip(0, size)  # into the image
        outline = np.abs(np.diff(corners, axis=0)).max(1).sum()
        if outline > MAX_OUTLINE:  # would fill the memory
            raise ValueError(
                f"segmentation: expected an outline of at most {MAX_OUTLINE:,} pixels, "
                f"got {outline:,.0f}"
            )
        [rle] = coco_mask.frPyObjects([corners.ravel().tolist()], height, width)
        area |= coco_mask.decode(rle).astype(bool)
    return area


def _decode_runs(segmentation: dict, size: tuple[int, int]) -> np.ndarray:
    width, height = size
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


def find_coco_files(folder: Path, split: str) -> tuple[Path, tuple[float, float] | None] | None:
    """The annotation file that holds `split`, and the part of it that is `split` (from, to).

    Without a part the file holds all splits. None: `folder` has no annotation file.

    Raises:
        ValueError: it has one, but of other splits.
    """

    def find_split(kind: str) -> list[Path]:
        return [f for pattern in SPLIT_FILES for f in sorted(folder.glob(pattern.format(kind)))]

    for name in WHOLE_FILES:
        if (folder / name).is_file():
            return folder / name, None
    kind = split
    share = (0.0, 1.0)
    if not find_split("test"):
        kind = "val" if split == "test" else "train"
        share = {"train": (VAL_SHARE, 1.0), "val": (0.0, VAL_SHARE), "test": (0.0, 1.0)}[split]
    if files := find_split(kind):
        return files[0], share
    if not (folder / "annotations").is_dir() and not find_split(""):
        return None
    raise ValueError(
        f"{folder / 'annotations'}: no instances_{kind}*.json in it; put COCO's file there"
    )


def read_coco(
    file: Path, folder: Path, allow_empty: bool
) -> tuple[list[Path], list[CocoMask], list[Skipped]]:
    """The images with persons, their annotations, and what is left out.

    With `allow_empty` also images without persons.

    Raises:
        ValueError: the file does not parse or has no category `person`, no image has a person, or
            the folder of the images is missing.
    """
    trouble = "expected COCO's instances, but it does not parse"
    skipped = []
    with explain_read_error(file, trouble, "download it again"):
        content = json.loads(file.read_bytes())  # with any byte order mark
        masks = {}
        # Some converters write the IDs of images as text in one place and as numbers in another.
        for image in content["images"]:
            size = _size(image["width"], image["height"])
            masks[str(image["id"])] = CocoMask(_file_name(image["file_name"]), size, [])
        categories = {str(c["id"]): c["name"] for c in content["categories"]}
        persons = {key for key, name in categories.items() if name.strip().lower() == CATEGORY}
        for annotation in content["annotations"]:
            if str(annotation["category_id"]) not in persons:
                continue
            image_id = str(annotation["image_id"])
            if image_id not in masks:
                skipped.append(Skipped(f"annotation {annotation.get('id')}", NOT_LISTED))
                continue
            masks[image_id].annotations.append(annotation)
        chosen = []
        for mask in masks.values():
            if not all(_parts(a.get("segmentation")) for a in mask.annotations):
                skipped.append(Skipped(mask.image, NOT_SEGMENTED))
            elif allow_empty or any(map(_is_person, mask.annotations)):
                chosen.append(mask)
    if not persons:
        raise ValueError(
            f"{file}: no category {CATEGORY!r}, found {list(categories.values())[:8]}; "
            f"give annotations of persons"
        )
    if not chosen:
        raise ValueError(f"{file}: no image with a person in it; give annotations of persons")
    check_file_names(file, [mask.image for mask in masks.values()])
    return _find_images(file, folder, [mask.image for mask in chosen]), chosen, skipped


def _find_images(file: Path, folder: Path, names: list[str]) -> list[Path]:
    """The paths of images in the first folder that has any of them."""
    name = file.stem.removeprefix("instances_").removeprefix("person_keypoints_")
    short = name.split("_")[0]  # train2017 of instances_train2017_person_only.json
    parts = (name, short, f"images/{name}", f"images/{short}", "images", "data", "")
    for images in (*(folder / part for part in parts), file.parent):
        if images.is_dir() and any((images / name).is_file() for name in names):
            return [check_symlink(images / name, folder) for name in names]
    raise ValueError(
        f"{folder}: expected {names[0]} of {file.name} in {name}/, images/{name}/ or images/; "
        f"unpack the images there"
    )


def _file_name(name: str) -> str:
    """`name`, with backslashes as Windows writes them or not, if it stays within its folder."""
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError(f"file_name: expected a file within the images' folder, got {name!r}")
    return path.as_posix()


def _size(width: float, height: float) -> tuple[int, int]:
    integers = all(type(side) in (int, float) and side % 1 == 0 for side in (width, height))
    if not integers or min(width, height) < 1 or width * height > MAX_PIXELS:
        raise ValueError(
            f"width, height: expected at least 1 and {MAX_PIXELS:,} pixels in all, got {width}, "
            f"{height}"
        )
    return int(width), int(height)
