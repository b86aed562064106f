"""Faces as the lists of a published set name them: tables, annotations, file names.

A reader of such a set yields one `ListedFace` for each row, and a `Skipped` for each row that it
leaves out; `list_faces` compares them with the files that exist.
"""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fervit_lib.datasets.class_names import SCHEMES
from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.image_files import SUFFIXES, is_ignored
from fervit_lib.datasets.skipped import MISSING, NO_BOX, NO_LABEL, REPEATED, Skipped
from fervit_lib.system.errors import check_file_names, check_symlink, explain_read_error

# The box of a face that fills its picture, whatever the size: boxes are clipped to the picture.
WHOLE = (0, 0, 1 << 30, 1 << 30)
REMEDY = "correct or delete the row, or download the set again"
_OPTIONAL = ("published", "subjects", "boxes", "other_labels")  # fields of FaceDataset


class ListedFace(NamedTuple):
    """One face of a set, as the set names it."""

    file: str  # relative to the folder of the set
    class_name: str
    # Each of the following becomes a field of FaceDataset, `_OPTIONAL`, unless no face has it.
    published: str = ""  # train, val or test
    subject: str = ""
    box: tuple[int, int, int, int] = WHOLE  # left, top, right, bottom
    other_class: str = ""  # the class that a second list of the set gives this face


def list_faces(
    root: Path, read: Callable[[Path], Iterable[ListedFace | Skipped]], list_others: bool = True
) -> FaceDataset:
    """The faces that `read` yields of `root`, if their files exist below it. Opens no image.

    The second face in a picture has the ID `image/a.jpg#2`. A repeated row is skipped; if it has
    another class, that is in the face's `other_labels`.

    Args:
        read: yields the rows of the set.
        list_others: also list as skipped the images beside the faces that no row names.

    Raises:
        ValueError: no face is left, or a file is outside `root`.
    """
    faces: dict[str, ListedFace] = {}
    skipped = []
    unnamed = {}  # by folder: the files there that no row has named so far
    files = set()
    for row in read(root):
        folder = row[0].rpartition("/")[0]
        if folder not in unnamed:
            unnamed[folder] = _list_files(folder, root)
            files |= unnamed[folder]
        unnamed[folder].discard(row[0])
        if isinstance(row, Skipped):
            skipped.append(row)
            continue
        left, top, right, bottom = row.box
        if left >= right or top >= bottom:
            skipped.append(Skipped(row.file, NO_BOX))
            continue
        if row.file not in files:
            skipped.append(Skipped(row.file, MISSING))
            continue
        path, count = row.file, 1
        while path in faces and faces[path].box != row.box:
            count += 1
            path = f"{row.file}#{count}"
        first = faces.setdefault(path, row)
        if first is not row:
            skipped.append(Skipped(path, REPEATED))
            if first.class_name != row.class_name:
                faces[path] = first._replace(other_class=row.class_name)
    if list_others:
        others = sorted(set().union(*unnamed.values()))
        skipped += [Skipped(file, NO_LABEL) for file in others if file.lower().endswith(SUFFIXES)]
    if not faces:
        raise ValueError(
            f"{root}: expected files with a label, found none; skipped are {len(skipped)}, the "
            f"first {skipped[:1]}; unpack the complete set there"
        )
    return to_dataset(root, faces, skipped=tuple(skipped))


def to_dataset(source: Path, faces: Mapping[str, ListedFace], **fields: Any) -> FaceDataset:
    """The faces by image ID as a set; `fields` are further ones of it.

    Raises:
        ValueError: names of files are not in UTF-8.
    """
    check_file_names(source, (*faces, *(file.path for file in fields.get("skipped", ()))))
    _, names, *optional = map(np.array, zip(*faces.values(), strict=True))
    classes, labels = np.unique(names, return_inverse=True)
    defaults = ListedFace._field_defaults.values()
    for field, values, default in zip(_OPTIONAL, optional, defaults, strict=True):
        if (values != default).any():
            fields[field] = values
    return FaceDataset(tuple(classes.tolist()), labels, tuple(faces), source, **fields)


def _list_files(folder: str, root: Path) -> set[str]:
    """The files in a folder, relative to `root`."""
    path = root / folder
    with explain_read_error(root, f"a row names the folder {folder!r}", REMEDY):
        if not path.resolve().is_relative_to(root.resolve()):
            raise ValueError("it is outside")
    if is_ignored(Path(folder)) or not path.is_dir():
        return set()
    entries = list_entries(path, root)
    return {Path(folder, entry.name).as_posix() for entry in entries if entry.is_file()}


def list_entries(folder: Path | str, root: Path) -> list[os.DirEntry]:
    """What is in a folder, sorted: the order of a file system differs between machines."""
    with os.scandir(folder) as iterator:
        entries = [entry for entry in iterator if not is_ignored(Path(entry.name))]
    for entry in entries:
        if entry.is_symlink():
            check_symlink(Path(entry.path), root)
    return sorted(entries, key=lambda entry: entry.name)


def has_names(path: Path, pattern: re.Pattern[str]) -> bool:
    """Whether files in a folder, its class folders or those of its splits have such names."""
    depths = (islice(path.glob(depth), 100) for depth in ("*", "*/*", "*/*/*"))
    return any(pattern.fullmatch(file.name) for file in chain(*depths))


def read_rows(path: Path, *layouts: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each row of a table is, for errors, and its cells by column, in lower case.

    Args:
        path: a CSV file, or with any other suffix a text whose cells are separated by spaces.
        layouts: names of the columns, in lower case. A first row that has all of a layout is the
            header; without a header, the layout with as many columns as the first row holds.

    Raises:
        ValueError: no text, or a row with too few or too many cells.
    """
    with (
        explain_read_error(path, "cannot be read as a table", REMEDY),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        rows = csv.reader(file) if path.suffix == ".csv" else map(str.split, file)
        columns: Sequence[str] = ()
        for line, cells in enumerate(rows, start=1):
            if not cells:
                continue
            if not columns:
                header = [cell.strip().lower() for cell in cells]
                columns = next((n for n in layouts if len(n) == len(cells)), layouts[0])
                if any(set(layout) <= set(header) for layout in layouts):
                    columns = header
                    continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{path}, row {line}: expected {len(columns)} cells, {', '.join(columns)}, "
                    f"got {len(cells)}; {REMEDY}"
                )
            yield f"{path}, row {line}", dict(zip(columns, cells, strict=True))


def whole_number(text: str, where: str, name: str) -> int:
    """An integer, also where a table has it as `3.0` or `3,0`."""
    number = re.fullmatch(r"\s*(-?\d+)([.,]0*)?\s*", text)
    if not number:
        raise ValueError(f"{where}: {name}: expected a whole number, got {text!r}; {REMEDY}")
    return int(number[1])


def numbered_class(scheme: str, text: str, where: str, name: str = "label") -> str:
    """The emotion of a number, as text, of a set; `name` is its column."""
    names = SCHEMES[scheme]
    number = whole_number(text, where, name)
    if number not in names:
        numbers = ", ".join(f"{number} {emotion}" for number, emotion in names.items())
        raise ValueError(f"{where}: {name}: expected one of {numbers}, got {number}; {REMEDY}")
    return names[number]
