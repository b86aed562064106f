"""ExpW: `label.lst`, one row per face, with its box in a photograph of several people.

Source: Zhang et al. 2018, *From Facial Expression Recognition to Interpersonal Relation
Prediction*. It has no splits and no subjects.
"""

from collections.abc import Iterator
from pathlib import Path

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.listed_faces import (
    ListedFace,
    list_faces,
    numbered_class,
    read_rows,
    whole_number,
)
from fervit_lib.datasets.skipped import NO_BOX, Skipped

# Top comes before left, and right before bottom.
COLUMNS = ("image", "face_id", "top", "left", "right", "bottom", "confidence", "label")


def _table(path: Path) -> Path:
    return next(path.glob("label/label.lst"), path / "label.lst")


def is_expw(path: Path) -> bool:
    return _table(path).is_file()


def load_expw(path: Path) -> FaceDataset:
    """All faces, each cut out by its box. A row that repeats another is skipped."""
    return list_faces(path, _rows(path))


def _rows(path: Path) -> Iterator[ListedFace | Skipped]:
    folder = next((f for f in ("image/origin", "origin") if (path / f).is_dir()), "image")
    for where, row in read_rows(_table(path), COLUMNS):
        file = f"{folder}/{row['image']}"
        sides = ("left", "top", "right", "bottom")
        left, top, right, bottom = (whole_number(row[name], where, name) for name in sides)
        class_name = numbered_class("expw", row["label"], where)
        if left < right and top < bottom:
            yield ListedFace(file, class_name, box=(left, top, right, bottom))
        else:
            yield Skipped(file, NO_BOX)
