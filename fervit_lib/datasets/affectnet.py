"""AffectNet: as arrays (`train_set`, `val_set`), as CSV tables, or the copy in class folders.

Source: Mollahosseini et al. 2017, *AffectNet: A Database for Facial Expression, Valence, and
Arousal Computing in the Wild*. Its validation set is its published test: the test set was never
released.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fervit_lib.datasets.class_names import emotion_of
from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.listed_faces import (
    REMEDY,
    ListedFace,
    list_faces,
    numbered_class,
    read_rows,
    whole_number,
)
from fervit_lib.datasets.skipped import NO_BOX, NO_EXPRESSION, Skipped
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.prefetch import PrefetchPool

ARRAYS = {"train_set": "train", "val_set": "test"}
TABLES = {"training.csv": "train", "validation.csv": "test"}
COLUMNS = (
    "subdirectory_filepath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
IMAGES = "Manually_Annotated_Images"
_NO_EXPRESSION = ("8", "9", "10")  # none, uncertain, no face


def is_affectnet(path: Path) -> bool:
    return _has_arrays(path) or _has_class_folders(path) or bool(_tables(path))


def load_affectnet(path: Path) -> FaceDataset:
    """All faces with one of the eight emotions, cut out by their boxes where tables have them.

    In the copy in class folders the folder is the class, and a class that differs in `labels.csv`
    is in `other_labels`. That copy has no splits.
    """
    if _has_arrays(path):
        return list_faces(path, _array_rows(path))
    rows = _class_folder_rows if _has_class_folders(path) else _table_rows
    return list_faces(path, rows(path))


def _has_arrays(path: Path) -> bool:
    return any((path / folder / "annotations").is_dir() for folder in ARRAYS)


def _array_rows(path: Path) -> Iterator[ListedFace | Skipped]:
    """`{train,val}_set/images/N.jpg` with the class in `annotations/N_exp.npy`."""
    for folder, split in ARRAYS.items():
        annotations = path / folder / "annotations"
        files = sorted(annotations.glob("*_exp.npy"))
        with PrefetchPool() as pool:
            for file, number in zip(files, pool.map(_read_number, files, Path), strict=True):
                image = f"{folder}/images/{file.name.removesuffix('_exp.npy')}.jpg"
                yield _face(image, number, str(file), split)


def _read_number(file: Path) -> str:
    """The number in an array without dimensions, which is a number or a text."""
    with explain_read_error(file, "cannot be read as an array of one number", REMEDY):
        return str(np.load(file).item()).removesuffix(".0")


def _face(file: str, number: str, where: str, split: str) -> ListedFace | Skipped:
    if number in _NO_EXPRESSION:
        return Skipped(file, NO_EXPRESSION)
    return ListedFace(file, numbered_class("affectnet", number, where), split)


def _tables(path: Path) -> list[Path]:
    """The CSV tables of a folder with `Manually_Annotated_Images`, beside it or in their own."""
    if not (path / IMAGES).is_dir():
        return []
    return [table for name in TABLES for table in (*path.glob(name), *path.glob(f"*/{name}"))]


def _table_rows(path: Path) -> Iterator[ListedFace | Skipped]:
    for table in _tables(path):
        for where, row in read_rows(table, COLUMNS):
            file = f"{IMAGES}/{row['subdirectory_filepath']}"
            face = _face(file, row["expression"].strip(), where, TABLES[table.name])
            # A few rows have NULL or a negative size.
            left, top, width, height = (
                whole_number(row[name].replace("NULL", "0"), where, name) for name in COLUMNS[1:5]
            )
            if isinstance(face, ListedFace):
                face = face._replace(box=(left, top, left + width, top + height))
                if width <= 0 or height <= 0:
                    face = Skipped(file, NO_BOX)
            yield face


def _has_class_folders(path: Path) -> bool:
    table = path / "labels.csv"
    if not table.is_file():
        return False
    with table.open("rb") as file:
        return b"pth,label" in file.readline(100)


def _class_folder_rows(path: Path) -> Iterator[ListedFace]:
    for _, row in read_rows(path / "labels.csv", ("pth", "label")):
        folder = row["pth"].partition("/")[0]
        differs = emotion_of(folder) != emotion_of(row["label"])
        yield ListedFace(row["pth"], folder, other_class=row["label"] if differs else "")
