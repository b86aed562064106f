"""FER+ as its own set of eight classes: `FER2013{Train,Valid,Test}` with a `label.csv` each.

Source: github.com/microsoft/FERPlus. Valid is FER2013's PublicTest, Test its PrivateTest.
"""

from collections.abc import Iterator
from pathlib import Path

from fervit_lib.datasets.class_names import EIGHT_EMOTIONS
from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.fer_plus import VOTE_COLUMNS, count_votes, majority_labels
from fervit_lib.datasets.listed_faces import ListedFace, list_faces, read_rows
from fervit_lib.datasets.skipped import NO_CLEAR_VOTE, Skipped

FOLDERS = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}
VOTES = [name.lower() for name in VOTE_COLUMNS]
TABLE = "label.csv"


def is_fer_plus(path: Path) -> bool:
    return any((path / folder / TABLE).is_file() for folder in FOLDERS)


def load_fer_plus(path: Path) -> FaceDataset:
    """The faces with a majority of votes for one of the eight emotions, see `majority_labels`."""
    return list_faces(path, _rows(path))


def _rows(path: Path) -> Iterator[ListedFace | Skipped]:
    for folder, split in FOLDERS.items():
        table = path / folder / TABLE
        if not table.is_file():
            continue
        # Without a header, with or without the box, which is the whole picture.
        rows = list(read_rows(table, VOTES, ["name", *VOTES], ["name", "box", *VOTES]))
        labels = majority_labels(count_votes(rows), EIGHT_EMOTIONS)
        for (_, row), label in zip(rows, labels, strict=True):
            file = f"{folder}/{next(iter(row.values()))}"
            if label < 0:
                yield Skipped(file, NO_CLEAR_VOTE)
            else:
                yield ListedFace(file, EIGHT_EMOTIONS[label], split)
