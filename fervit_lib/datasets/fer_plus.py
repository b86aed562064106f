"""FER+: the votes of ten annotators on every face of FER2013, as hard or as soft labels.

Source: Barsoum et al. 2016, *Training Deep Networks for Facial Expression Recognition with
Crowd-Sourced Label Distribution*. `fer2013new.csv` lies beside the faces; it has the rows of
Kaggle's tables in their order. Its column `Image name` numbers only rows that show a face, so that
the number in a name is not the row: names are looked up, never computed.
"""

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from fervit_lib.datasets.class_names import emotion_of
from fervit_lib.datasets.kaggle_tables import read_usages
from fervit_lib.datasets.listed_faces import REMEDY, read_rows, whole_number
from fervit_lib.datasets.splits import split_of

VOTES_FILE = "fer2013new.csv"
_EMOTIONS = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]
_NO_EMOTION = ["unknown", "NF"]  # NF: not a face
VOTE_COLUMNS = [*_EMOTIONS, *_NO_EMOTION]


def votes_path(source: Path) -> Path:
    """Where the votes on the faces of `source`, a folder or a table, are expected."""
    return (source if source.is_dir() else source.parent) / VOTES_FILE


def read_votes(path: Path) -> pd.DataFrame:
    """One row per face of FER2013: the votes for each emotion, unknown and NF (not a face).

    `Usage` and `Image name` are text, "" where the file has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, or a cell is not a number of votes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no FER+ votes; place fer2013new.csv of FER+ there")
    rows = list(read_rows(path, [name.lower() for name in VOTE_COLUMNS]))
    if not rows:
        raise ValueError(f"{path}: expected FER+ votes, found no row; {REMEDY}")
    votes = count_votes(rows)
    for name in ("Usage", "Image name"):
        votes[name] = [cells.get(name.lower(), "").strip() for _, cells in rows]
    return votes


def count_votes(rows: Sequence[tuple[str, dict[str, str]]]) -> pd.DataFrame:
    """The votes in rows of `read_rows`, with the columns `VOTE_COLUMNS`.

    Raises:
        ValueError: a cell is not a number of votes.
    """
    counts = [
        [whole_number(cells[name.lower()], where, name) for name in VOTE_COLUMNS]
        for where, cells in rows
    ]
    votes = pd.DataFrame(counts, columns=VOTE_COLUMNS, dtype=int)
    for row, column in np.argwhere(votes.to_numpy() < 0)[:1].tolist():
        raise ValueError(
            f"{rows[row][0]}: {VOTE_COLUMNS[column]}: expected a number of votes, got "
            f"{votes.iat[row, column]}; {REMEDY}"
        )
    return votes


def load_votes(source: Path, paths: Sequence[str]) -> pd.DataFrame:
    """The votes on the faces `paths` of the set `source`, one row per face, in their order.

    Args:
        source: a folder or a table, as `FaceDataset.source`.
        paths: image IDs, as `FaceDataset.paths`.

    Raises:
        FileNotFoundError: there are no votes beside the faces.
        ValueError: a file's name is not in the votes; or the rows of the table, of all splits, are
            not those of the votes.
    """
    path = votes_path(source)
    votes = read_votes(path)
    if source.is_dir():
        keys = [PurePath(face).stem for face in paths]
        named = votes["Image name"][votes["Image name"] != ""]  # a row without a face has no name
        row_of = {PurePath(name).stem: row for row, name in named.items()}
        if len(row_of) < len(named):
            raise ValueError(f"{path}: Image name: expected different names; download it again")
        if missing := [stem for stem in keys if stem not in row_of]:
            raise ValueError(
                f"{path}: expected faces that are named as in its column 'Image name', got "
                f"{len(missing)} of {len(keys)} others, such as {missing[0]}; name the files as "
                f"FER+ does, or give fer2013.csv as faces"
            )
    else:
        keys = list(paths)
        remedy = "take both files complete and unchanged"
        usages = read_usages(source)
        if len(usages) != len(votes):
            raise ValueError(
                f"{path}: expected the rows of {source}, but it has {len(votes)} rows and the "
                f"table {len(usages)}; {remedy}"
            )
        for (face, usage), voted in zip(usages.items(), votes["Usage"], strict=True):
            if split_of(usage) != split_of(voted):
                raise ValueError(
                    f"{path}: Usage: {face} is {usage!r} in the table and {voted!r} in the votes, "
                    f"so these are not the rows that were voted on; {remedy}"
                )
        row_of = {face: row for row, face in enumerate(usages)}
    return votes.iloc[[row_of[key] for key in keys]].reset_index(drop=True)


def _without_single_votes(votes: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The votes for each of `classes`, then for other emotions, unknown and NF.

    A single vote is noise and is dropped (section 3).

    Raises:
        ValueError: a class is none of FER+'s emotions.
    """
    column_of = {emotion_of(column): column for column in _EMOTIONS}
    columns = [column_of.get(emotion_of(name)) for name in classes]
    if missing := [name for name, column in zip(classes, columns, strict=True) if not column]:
        raise ValueError(
            f"classes: expected emotions that FER+ has votes for ({', '.join(_EMOTIONS)}), got "
            f"{', '.join(missing)}; use labels: hard, or leave these classes out"
        )
    others = [column for column in VOTE_COLUMNS if column not in columns]
    counts = votes[[*columns, *others]]
    return counts.where(counts > 1, 0)


def soft_labels(votes: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(N, C) share of the votes for each class; zeros for a face without a clear vote.

    Single votes do not count. A face has no clear vote where no vote for one of `classes` is left,
    or where unknown or not a face has the most votes.
    """
    counts = _without_single_votes(votes, classes)
    # On a tie idxmax takes the first column: an emotion, since _NO_EMOTION comes last.
    clear = ~counts.idxmax(axis=1).isin(_NO_EMOTION)
    of_classes = counts.iloc[:, : len(classes)].mul(clear, axis=0)
    total = of_classes.sum(axis=1).clip(lower=1)
    return of_classes.div(total, axis=0).to_numpy(float)


def majority_labels(votes: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(N,) int64 class with more than half of the votes; -1 where none of `classes` has.

    Single votes do not count.
    """
    counts = _without_single_votes(votes, classes).to_numpy()
    winner = counts.argmax(1)
    clear = (winner < len(classes)) & (counts.max(1) > counts.sum(1) / 2)
    return np.where(clear, winner, -1)
