"""Kaggle's tables of FER2013, `fer2013.csv` and `icml_face_data.csv`, plain or packed: every row is checked."""

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

PRIVATE_TEST = "private_test"  # only in the tables; kept back: no loop over SPLITS touches it
SIDE = 48  # of the tables' images, pixels
COLUMNS = ("emotion", "pixels", "Usage")
MAX_LINE = 1 << 16  # characters; a row has 9,300 at most
MAX_PACKING = 100  # unpacked over packed size; FER2013's is 3. Below 4 MB nobody asks.
KAGGLE_EMOTIONS = (
    "angry",
    "disgust",
    "fear",
    "happy",
    "sad",
    "surprise",
    "neutral",
)  # by the tables' number
USAGES = {"train": "Training", "val": "Training", "test": "PublicTest", PRIVATE_TEST: "PrivateTest"}


def read_table(path: Path, usage: str) -> tuple[list[str], list[np.ndarray], list[str]]:
    """Emotions, pixels (2304,) uint8 and identities of the rows of one usage; every row's labels are checked."""
    found = []
    tables = _tables(path)  # by name: a generator that is let go closes its file
    for name, text in tables:
        rows = csv.reader(text, skipinitialspace=True)
        header = [column.strip() for column in next(rows, [])]
        if set(COLUMNS) <= set(header):
            break
        found.append(f"{name} with {shorten(column[:40] for column in header)}")
    else:
        raise ValueError(
            f"{path}: expected a CSV file with the columns {', '.join(COLUMNS)}, found {shorten(found)}; give "
            f"Kaggle's fer2013.csv or icml_face_data.csv"
        )
    emotions, pixels, paths = [], [], []
    for row in rows:
        if not row:
            continue
        where = f"{path}, row {rows.line_num}"
        if len(row) != len(header):
            raise ValueError(f"{where}: has {len(row)} fields, expected {len(header)}; {REMEDY}")
        cells = dict(zip(header, row, strict=True))
        if cells["emotion"] not in map(str, range(len(KAGGLE_EMOTIONS))):
            raise ValueError(f"{where}: emotion is {cells['emotion']!r}, expected 0 to 6; {REMEDY}")
        if cells["Usage"].strip() not in USAGES.values():
            expected = ", ".join(dict.fromkeys(USAGES.values()))
            raise ValueError(
                f"{where}: Usage is {cells['Usage']!r}, expected one of {expected}; {REMEDY}"
            )
        if cells["Usage"].strip() == usage:
            emotions.append(KAGGLE_EMOTIONS[int(cells["emotion"])])
            pixels.append(_parse_pixels(cells["pixels"], where))
            paths.append(f"{name}:{rows.line_num}")
    return emotions, pixels, paths


REMEDY = "the file is damaged: correct or delete the row, or download the file again"


def _parse_pixels(text: str, where: str) -> np.ndarray:
    """(2304,) uint8."""
    try:
        pixels = np.fromstring(text, dtype=np.int64, sep=" ")
    except ValueError as error:
        raise ValueError(f"{where}: pixels hold something else than integers; {REMEDY}") from error
    if len(pixels) != SIDE * SIDE:
        raise ValueError(
            f"{where}: has {len(pixels)} pixels, expected {SIDE * SIDE} = {SIDE}x{SIDE}; {REMEDY}"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"{where}: pixels from {pixels.min()} to {pixels.max()}, expected 0 to 255; {REMEDY}"
        )
    return pixels.astype(np.uint8)


def _tables(path: Path) -> Iterator[tuple[str, Iterator[str]]]:
    """Name and lines of the CSV files in `path`; names are those of the unpacked files: packing changes no identity.

    Archives are read where they lie, nothing of them is written.
    """
    kind = path.suffix.lower()
    most = max(4_000_000, MAX_PACKING * path.stat().st_size)
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if _is_csv(name):
                    yield PurePosixPath(name).name, _lines(archive.open(name), most)
    elif path.stem.lower().endswith(".tar") or kind in (".tar", ".tgz"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and _is_csv(member.name):
                    yield PurePosixPath(member.name).name, _lines(archive.extractfile(member), most)
    elif kind in (".gz", ".xz"):
        with (gzip.open if kind == ".gz" else lzma.open)(path) as file:
            yield path.stem, _lines(file, most)
    else:
        with path.open("rb") as file:
            yield path.name, _lines(file, most)


def _is_csv(name: str) -> bool:
    return name.lower().endswith(".csv") and not PurePosixPath(name).name.startswith(".")


def _lines(file: Any, most: int) -> Iterator[str]:
    """The lines of a table, of `most` characters in all: a small archive can hold any number."""
    text = TextIOWrapper(file, encoding="utf-8-sig", newline="")
    while line := text.readline(MAX_LINE):
        most -= len(line)
        if len(line) == MAX_LINE or most < 0:
            raise ValueError(
                f"a line has more than {MAX_LINE} characters, or all more than {MAX_PACKING}-fold packing"
            )
        yield line


def shorten(names: Any, limit: int = 5) -> str:
    """The first `limit` of some names in order, as a message lists them."""
    names = sorted(names)
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "") if names else "nothing"
