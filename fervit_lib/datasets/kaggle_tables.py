"""Kaggle's tables of FER2013, `fer2013.csv` and `icml_face_data.csv`, plain or packed.

`Training` is train and val, `PublicTest` is test, `PrivateTest` is private_test. Every row is
checked: a damaged one is an error, none is skipped.
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

from fervit_lib.datasets.action_units import EMOTIONS
from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.splits import PRIVATE_TEST, part_of_train
from fervit_lib.datasets.toy_set import MARKER
from fervit_lib.system.errors import explain_read_error

USAGES = {"train": "Training", "val": "Training", "test": "PublicTest", PRIVATE_TEST: "PrivateTest"}
# Position: the number in the tables.
KAGGLE_EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_EMOTION_OF = {str(number): emotion for number, emotion in enumerate(KAGGLE_EMOTIONS)}
COLUMNS = ("emotion", "pixels", "Usage")
SIDE = 48  # of the images, in pixels
MAX_LINE = 1 << 16  # characters; a row of FER2013 has at most 9,300
MAX_RATIO = 100  # unpacked over packed size; FER2013's is 3
MIN_LIMIT = 4_000_000  # characters; a table is never refused below
REMEDY = "the file is damaged: correct or delete the row, or download the file again"


def load_kaggle_table(path: Path, split: str) -> FaceDataset:
    """One split of a table. Classes are `EMOTIONS`.

    Raises:
        ValueError: no table, a damaged row, or a class without a row of this split.
    """
    usage = USAGES[split]
    remedy = "expected Kaggle's fer2013.csv; download it again"
    with explain_read_error(path, "cannot be read as a CSV file", remedy):
        rows = list(_read_rows(path, usage))
    if missing := set(EMOTIONS) - {emotion for emotion, _, _ in rows}:
        raise ValueError(
            f"{path}: no row with Usage {usage!r} of class {', '.join(sorted(missing))}; expected "
            f"all of {', '.join(EMOTIONS)}; download the whole file, or use folders for a set with "
            f"fewer classes"
        )
    emotions, pixels, paths = zip(*rows, strict=True)
    labels = np.array([EMOTIONS.index(emotion) for emotion in emotions], np.int64)
    synthetic = (path.parent / MARKER).is_file()
    faces = FaceDataset(EMOTIONS, labels, paths, path, synthetic, np.stack(pixels))
    return part_of_train(faces, split)


def _read_rows(path: Path, usage: str) -> Iterator[tuple[str, np.ndarray, str]]:
    """Emotion, pixels (48, 48) uint8 and image ID of each row of one usage; checks every row."""
    other_tables = []
    limit = max(MIN_LIMIT, MAX_RATIO * path.stat().st_size)
    for member, file in _csv_files(path):
        # As of the unpacked file, so that packing does not change an image ID.
        name = PurePosixPath(member).name
        rows = csv.DictReader(_lines(file, limit), skipinitialspace=True)
        header = rows.fieldnames or []
        if not set(COLUMNS) <= set(header):
            other_tables.append(f"{name} with {header[:5]}"[:200])
            continue
        for row in rows:
            where = f"{path}, row {rows.line_num}"
            # csv gives superfluous fields the key None, and missing fields the value None.
            if None in row or None in row.values():
                raise ValueError(f"{where}: fields: expected {len(header)} of them; {REMEDY}")
            if row["emotion"] not in _EMOTION_OF:
                raise ValueError(
                    f"{where}: emotion is {row['emotion']!r}, expected 0 to 6; {REMEDY}"
                )
            if row["Usage"].strip() not in USAGES.values():
                expected = ", ".join(sorted(set(USAGES.values())))
                raise ValueError(
                    f"{where}: Usage is {row['Usage']!r}, expected {expected}; {REMEDY}"
                )
            if row["Usage"].strip() == usage:
                pixels = _parse_pixels(row["pixels"], where)
                yield _EMOTION_OF[row["emotion"]], pixels, f"{name}:{rows.line_num}"
        return
    raise ValueError(
        f"{path}: expected a CSV file with the columns {', '.join(COLUMNS)}, found "
        f"{other_tables[:5] or 'none'}; give Kaggle's fer2013.csv or icml_face_data.csv"
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
