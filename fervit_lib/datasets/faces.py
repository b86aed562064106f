"""`load_faces`: labelled faces from any source, by the reader of that source."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.face_folders import load_face_folder
from fervit_lib.datasets.fer_plus import load_votes, majority_labels, soft_labels
from fervit_lib.datasets.kaggle_tables import load_kaggle_table
from fervit_lib.datasets.skipped import NO_CLEAR_VOTE
from fervit_lib.datasets.splits import PRIVATE_TEST, SPLITS
from fervit_lib.system.names import check_choice

LABELS = ("hard", "majority", "soft")
# A test of the path, and the reader of the sources that pass it, called with path and split. The
# first test that a source passes decides. Not `Path.exists`: reading a pipe would never end.
READERS = (
    (Path.is_dir, load_face_folder),
    (Path.is_file, load_kaggle_table),
)


def load_faces(path: Path | str, split: str, labels: str = "hard") -> FaceDataset:
    """Load one split of a set of faces.

    Args:
        path: a folder `{train,val,test}/{class}/*` (jpg, jpeg, png, bmp, webp), whose classes are
            the folders of train in alphabetical order; or Kaggle's `fer2013.csv` or
            `icml_face_data.csv`, plain or as .gz, .xz, .zip, .tar.gz, whose classes are `EMOTIONS`.
        split: train, val or test; of a table also private_test. In tables Training is train and
            val, PublicTest is test, PrivateTest is private_test.
        labels: hard, one class per face as the set has it; or, by the votes of FER+ beside the
            faces, majority (one class) or soft (`[i]` gives the shares of the votes). Faces without
            a clear vote are then left out, see `fer_plus`.

    Returns:
        The faces; `.skipped` lists those that were left out.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the split is unknown or not in this set, a class has no image in it, or a row of
            the table is damaged. A damaged image file is no error here: `audit_faces` finds it.
    """
    path = Path(path)
    check_choice("labels", labels, LABELS)
    check_choice("split", split, (*SPLITS, PRIVATE_TEST))
    for accepts, load in READERS:
        if accepts(path):
            faces = load(path, split)
            return faces if labels == "hard" else label_by_votes(faces, labels)
    raise FileNotFoundError(
        f"{path}: no such file or folder; give a folder with {{train,val,test}}/{{class}}/ or "
        f"Kaggle's fer2013.csv"
    )


def label_by_votes(faces: FaceDataset, labels: str) -> FaceDataset:
    """The faces with labels by the votes of FER+, without those that have no clear vote."""
    votes = load_votes(faces.source, faces.paths)
    if labels == "majority":
        classes = majority_labels(votes, faces.classes)
        return replace(faces, labels=classes).without(classes < 0, NO_CLEAR_VOTE)
    shares = soft_labels(votes, faces.classes).astype(np.float32)
    relabelled = replace(faces, labels=shares.argmax(1).astype(np.int64), soft_labels=shares)
    return relabelled.without(shares.sum(1) == 0, NO_CLEAR_VOTE)
