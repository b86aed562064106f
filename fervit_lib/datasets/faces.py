"""`load_faces`: labelled faces from any source, by the reader of that source."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.face_folders import load_face_folder
from fervit_lib.datasets.fer_plus import load_votes, majority_labels, soft_labels
from fervit_lib.datasets.image_files import is_ignored
from fervit_lib.datasets.kaggle_tables import TABLES, load_kaggle_table
from fervit_lib.datasets.published_sets import PUBLISHED
from fervit_lib.datasets.skipped import NO_CLEAR_VOTE
from fervit_lib.datasets.splits import SPLITS, Protocol, deal
from fervit_lib.system.errors import check_symlink
from fervit_lib.system.names import check_choice

LABELS = ("hard", "majority", "soft")
# A test of the path, and the reader of all faces of the sources that pass it. The first test that
# a source passes decides. Not `Path.exists`: reading a pipe would never end.
READERS = (
    *PUBLISHED,
    (Path.is_dir, load_face_folder),
    (Path.is_file, load_kaggle_table),
)
_EMOTIONS = Protocol()


def read_faces(path: Path | str) -> FaceDataset:
    """All faces of a source, whatever their split, with the classes of the source.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: its layout is unknown, or a row of the table is damaged.
    """
    path = Path(path)
    folders = [entry for entry in path.glob("*/") if not is_ignored(Path(entry.name))]
    # Archives often unpack to one folder in another, such as `raf-db/basic`.
    places = (path, check_symlink(folders[0], path)) if len(folders) == 1 else (path,)
    # A folder of Kaggle's files is that of its table.
    if not folders and (tables := [path / name for name in TABLES if (path / name).is_file()]):
        places = (tables[0],)
    for accepts, load in READERS:
        for place in filter(accepts, places):
            return load(place)
    raise FileNotFoundError(
        f"{path}: no such file or folder; give a folder with {{train,val,test}}/{{class}}/ or "
        f"Kaggle's fer2013.csv"
    )


def load_splits(path: Path | str, protocol: Protocol = _EMOTIONS) -> dict[str, FaceDataset]:
    """Load train, val and test of a set of faces; the source is read once.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: as `load_faces`.
    """
    sets = deal(read_faces(path), protocol)
    return {split: _get_split(sets, split) for split in SPLITS}


def load_faces(
    path: Path | str, split: str, labels: str = "hard", protocol: Protocol = _EMOTIONS
) -> FaceDataset:
    """Load one split of a set of faces.

    Args:
        path: a published set in its own layout (data/README.md); a folder
            `{train,val,test}/{class}/*` or `{class}/*`; or a table like Kaggle's `fer2013.csv`,
            plain or as .gz, .xz, .zip, .tar.gz.
        split: train, val or test. In tables Training is train, PublicTest val, PrivateTest test.
        labels: hard, one class per face as the set has it; or, by the votes of FER+ beside the
            faces, majority (one class) or soft (`[i]` gives the shares of the votes). Faces without
            a clear vote are then left out, see `fer_plus`.
        protocol: names of the classes, and how faces are dealt to splits.

    Returns:
        The faces; `.skipped` lists those that were left out. Classes are in alphabetical order.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the split is unknown or not in this set, a class is unknown or has no image in
            it, or a row of the table is damaged. A damaged image file is no error here:
            `audit_faces` finds it.
    """
    check_choice("labels", labels, LABELS)
    check_choice("split", split, SPLITS)
    faces = _get_split(deal(read_faces(path), protocol), split)
    return faces if labels == "hard" else label_by_votes(faces, labels)


def _get_split(sets: dict[str, FaceDataset], split: str) -> FaceDataset:
    if split not in sets:
        raise ValueError(
            f"split: {sets['train'].source} has no {split} faces, only {', '.join(sets)}; add "
            f"them. If its val is the published test, as AffectNet's is, rename it to test, or set "
            f"val: split_of_train, which takes it for test"
        )
    return sets[split]


def label_by_votes(faces: FaceDataset, labels: str) -> FaceDataset:
    """The faces with labels by the votes of FER+, without those that have no clear vote."""
    votes = load_votes(faces.source, faces.paths)
    if labels == "majority":
        classes = majority_labels(votes, faces.classes)
        return replace(faces, labels=classes).without(classes < 0, NO_CLEAR_VOTE)
    shares = soft_labels(votes, faces.classes).astype(np.float32)
    relabelled = replace(faces, labels=shares.argmax(1).astype(np.int64), soft_labels=shares)
    return relabelled.without(shares.sum(1) == 0, NO_CLEAR_VOTE)
