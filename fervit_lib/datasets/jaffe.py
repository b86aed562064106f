"""JAFFE: `KA.AN1.39.tiff`, the subject, the emotion and a number, in one folder or by class.

Source: Lyons et al. 1998, *Coding Facial Expressions with Gabor Wavelets*. Ten subjects, 213
pictures. It has no splits.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.listed_faces import ListedFace, has_names, list_faces
from fervit_lib.datasets.splits import split_of

_NAME = re.compile(r"([A-Z]{2})\.(AN|DI|FE|HA|NE|SA|SU)\d*\.\d+\.\w+")


def is_jaffe(path: Path) -> bool:
    return has_names(path, _NAME)


def load_jaffe(path: Path) -> FaceDataset:
    """All faces, with their subjects. Files with other names are skipped."""
    return list_faces(path, _rows(path))


def _rows(path: Path) -> Iterator[ListedFace]:
    for file in sorted(path.rglob("*.*.*.*")):
        image = file.relative_to(path).as_posix()
        if name := _NAME.fullmatch(file.name):
            split = split_of(image.partition("/")[0]) or ""  # where somebody made splits
            yield ListedFace(image, name[2], split, subject=name[1])
