"""Kaggle's tables of FER2013, `fer2013.csv` and `icml_face_data.csv`, and tables like them.

`Training` is train, `PublicTest` is val, `PrivateTest` is test. Emotion 7, where a table has it, is
contempt; a column `subject` names the person. Every row is checked: a damaged one is an error, none
is skipped.
"""

import csv
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.listed_faces import ListedFace, numbered_class, to_dataset
from fervit_lib.datasets.splits import split_of
from fervit_lib.datasets.toy_set import MARKER
from fervit_lib.system.errors import explain_read_error

TABLES = ("fer2013.csv", "icml_face_data.csv")  # the same rows
COLUMNS = ("emotion", "pixels", "usage")  # in lower case
SIDE = 48  # of the images, in pixels
MAX_LINE = 1 << 16  # characters; a row of FER2013 has at most 9,300
MAX_RATIO = 100  # unpacked over packed size; FER2013's is 3
MIN_LIMIT = 4_000_000  # characters; a table is never refused below
_DOWNLOAD = "expected Kaggle's fer2013.csv; download it again"
REMEDY = "the file is damaged: correct or delete the row, or download the file again"


def load_kaggle_table(path: Path) -> FaceDataset:
    """All faces of a table.

    Raises:
        ValueError: no table, or a damaged row.
    """
    faces = {}
    pixels = []
    for face, where, row in _read_rows(path):
        emotion = numbered_class("fer2013", row["emotion"], where, "emotion")
        split = split_of(row["usage"])
        if split is None:
            raise ValueError(
                f"{where}: Usage is {row['usage']!r}, expected Training, PublicTest or "
                f"PrivateTest; {REMEDY}"
            )
        faces[face] = ListedFace(face, emotion, split, row.get("subject", "").strip())
        pixels.append(_parse_pixels(row["pixels"], where))
    if not faces:
        raise ValueError(f"{path}: no row with Usage 'Training'; download the whole file")
    synthetic = (path.parent / MARKER).is_file()
    return to_dataset(path, faces, synthetic=synthetic, pixels=np.stack(pixels))


def read_usages(path: Path) -> dict[str, str]:
    """The Usage of every row of a table by image ID, in their order."""
    return {face: row["usage"].strip() for face, _, row in _read_rows(path)}


def _read_rows(path: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """The image ID of each row, where it is, for errors, and its cells by column name."""
    other_tables = []
    limit = max(MIN_LIMIT, MAX_RATIO * path.stat().st_size)
    with explain_read_error(path, "cannot be read as a CSV file", _DOWNLOAD):
        for member, file in _csv_files(path):
            # As of the unpacked file, so that packing does not change an image ID.
            name = PurePosixPath(member).name
            lines = _lines(file, limit)
            first = next(lines, "")
            # Excel writes semicolons where a comma is the decimal sign.
            delimiter = max(",;\t", key=first.count)
            header = [column.strip(' "\r\n').lower() for column in first.split(delimiter)]
            if not set(COLUMNS) <= set(header):
                other_tables.append(f"{name} with {header[:5]}"[:200])
                continue
            rows = csv.DictReader(lines, header, delimiter=delimiter, skipinitialspace=True)
            for row in rows:
                line = rows.line_num + 1  # the header is line 1
                where = f"{path}, row {line}"
                # csv gives superfluous fields the key None, and missing fields the value None.
                if None in row or None in row.values():
                    expected = f"fields: expected {len(header)} of them"
                    raise ValueError(f"{where}: {expected}; {REMEDY}")
                yield f"{name}:{line}", where, row
            return
    remedy = "give Kaggle's fer2013.csv or icml_face_data.csv"
    if "'pixels'" in str(other_tables):
        remedy = (
            "the competition's train.csv has no column Usage, and its test.csv has no labels: take "
            "icml_face_data.csv, which has both"
        )
    raise ValueError(
        f"{path}: expected a CSV file with the columns {', '.join(COLUMNS)}, found "
        f"{other_tables[:5] or 'none'}; {remedy}"
    )


def _parse_pixels(text: str, where: str) -> np.ndarray:
    """Grey levels as text, row by row of the image → (48, 48) uint8."""
    try:
        # Parses in C; int() of each of the 2,304 words is several times slower.
        pixels = np.fromstring(text, dtype=np.int64, sep=" ")
    except ValueError:
        pixels = np.empty(0, np.int64)
    if len(pixels) != SIDE * SIDE or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"{where}: pixels: expected {SIDE * SIDE} = {SIDE}x{SIDE} integers from 0 to 255, got "
            f"{len(pixels)} from {min(pixels, default=0)} to {max(pixels, default=0)}; {REMEDY}"
        )
    return pixels.astype(np.uint8).reshape(SIDE, SIDE)


def _csv_files(path: Path) -> Iterator[tuple[str, Any]]:
    """Name and open file of every CSV file in `path`; archives are read in place, not unpacked."""
    suffix = path.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for member in filter(_is_csv, archive.namelist()):
                yield member, archive.open(member)
    elif suffix in (".tar", ".tgz") or path.stem.lower().endswith(".tar"):
        with tarfile.open(path) as tar:
            for info in tar:
                if info.isfile() and _is_csv(info.name):
                    yield info.name, tar.extractfile(info)
    else:
        opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(suffix, open)
        with opener(path, "rb") as file:
            yield path.name if opener is open else path.stem, file


def _is_csv(name: str) -> bool:
    return name.lower().endswith(".csv") and not PurePosixPath(name).name.startswith(".")


def _lines(file: Any, limit: int) -> Iterator[str]:
    """The lines of a table, at most `limit` characters: a small archive can unpack to any size."""
    text = TextIOWrapper(file, encoding="utf-8-sig", newline="")
    while line := text.readline(MAX_LINE):
        limit -= len(line)
        if len(line) == MAX_LINE or limit < 0:
            raise ValueError(
                f"a line has more than {MAX_LINE} characters, or the table is more than "
                f"{MAX_RATIO} times as large as its archive"
            )
        yield line
