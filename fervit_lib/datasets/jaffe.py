"""JAFFE: `KA.AN1.39.tiff`, the subject, the emotion and a number, in one folder or by class.

Source: Lyons et al. 1998, *Coding Facial Expressions with Gabor Wavelets*. Ten subjects, 213
pictures. It has no splits.
"""

import re
from pathlib import Path

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.listed_faces import ListedFace, has_names, list_faces, load_with_subjects

_NAME = re.compile(r"([A-Z]{2})\.(AN|DI|FE|HA|NE|SA|SU)\d*\.\d+\.\w+")


def is_jaffe(path: Path) -> bool:
    return has_names(path, _NAME)


def load_jaffe(path: Path) -> FaceDataset:
    """All faces, with their subjects. Files with other names are skipped."""
    names = [_NAME.fullmatch(file.name) for file in sorted(path.iterdir())]
    if not any(names):
        return load_with_subjects(path, _NAME)
    return list_faces(path, (ListedFace(n[0], n[2], subject=n[1]) for n in names if n))
