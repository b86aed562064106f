"""CK+: the pictures of CK+48 in class folders, or the sequences with their `Emotion` tree.

Source: Lucey et al. 2010, *The Extended Cohn-Kanade Dataset (CK+)*. Both have subjects and no
splits.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.face_folders import load_face_folder
from fervit_lib.datasets.listed_faces import (
    ListedFace,
    has_names,
    list_faces,
    numbered_class,
)
from fervit_lib.datasets.skipped import NO_LABEL, Skipped
from fervit_lib.system.errors import explain_read_error

SEQUENCES = "cohn-kanade-images"
_FRAME = re.compile(r"(S\d+)_\d+_\d+\.\w+")


def is_ck_plus(path: Path) -> bool:
    return (path / SEQUENCES).is_dir() or has_names(path, _FRAME)


def load_ck_plus(path: Path) -> FaceDataset:
    """All labelled faces, with their subjects.

    CK+48 has the last three frames of each labelled sequence. Of a sequence itself, the last frame
    is the face: that one has the label. A sequence without a label is not neutral: it is skipped.
    """
    if (path / SEQUENCES).is_dir():
        return list_faces(path, _peaks(path), list_others=False)  # the frames before the last
    faces = load_face_folder(path)
    frames = (_FRAME.fullmatch(image.rpartition("/")[2]) for image in faces.paths)
    return replace(faces, subjects=np.array([frame[1] if frame else "" for frame in frames]))


def _peaks(path: Path) -> Iterator[ListedFace | Skipped]:
    """The last frame of each sequence `Sxxx/yyy`."""
    # A label whose pictures are missing is in the second tree only.
    trees = (path.glob(f"{tree}/S*/[!.]*/") for tree in (SEQUENCES, "Emotion"))
    for subject, name in sorted({folder.parts[-2:] for folder in chain(*trees)}):
        folder = f"{SEQUENCES}/{subject}/{name}"
        labels = next(path.glob(f"Emotion/{subject}/{name}/[!.]*_emotion.txt"), None)
        if labels is None:
            yield Skipped(folder, NO_LABEL)
            continue
        with explain_read_error(labels, "cannot be read as a number", "unpack the set again"):
            number = str(float(labels.read_text()))  # 3.0000000e+00
        class_name = numbered_class("ck+", number, str(labels))
        yield ListedFace(
            f"{folder}/{labels.stem.removesuffix('_emotion')}.png", class_name, subject=subject
        )
