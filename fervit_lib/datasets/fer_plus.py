"""FER+: the votes of ten annotators on every face of FER2013, as hard or as soft labels.

Source: Barsoum et al. 2016, *Training Deep Networks for Facial Expression Recognition with
Crowd-Sourced Label Distribution*. `fer2013new.csv` lies beside the faces; it has the rows of
Kaggle's tables in their order.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fervit_lib.system.errors import explain_read_error

VOTES_FILE = "fer2013new.csv"
_CLASS_NAMES = {  # of the columns of the file
    "neutral": "neutral",
    "happiness": "happy",
    "surprise": "surprise",
    "sadness": "sad",
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "contempt": "contempt",
}
_NO_EMOTION = ["unknown", "NF"]  # NF: not a face
_COLUMNS = [*_CLASS_NAMES, *_NO_EMOTION]


def votes_path(source: Path) -> Path:
    """Where the votes on the faces of `source`, a folder or a table, are expected."""
    return (source if source.is_dir() else source.parent) / VOTES_FILE


def read_votes(path: Path) -> pd.DataFrame:
    """One row per face of FER2013: the votes for each emotion, unknown and NF (not a face).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, or a cell is not a number of votes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no FER+ votes; place fer2013new.csv of FER+ there")
    with explain_read_error(path, "cannot be read as FER+ votes", "download it again"):
        table = pd.read_csv(path)
    if missing := [name for name in _COLUMNS if name not in table]:
        raise ValueError(
            f"{path}: expected FER+ votes, but it has no column {', '.join(missing)}; "
            f"download it again"
        )
    votes = table[_COLUMNS].apply(pd.to_numeric, errors="coerce")
    wrong = (~np.isfinite(votes) | (votes < 0)).to_numpy()
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{path}, row {row + 2}: {_COLUMNS[column]} is {table[_COLUMNS].iat[row, column]}, "
            f"expected a number of votes; download it again"
        )
    return votes


def load_votes(source: Path, paths: Sequence[str]) -> pd.DataFrame:
    """The votes on the faces `paths` of the set `source`, one row per face, in their order.

    Args:
        source: a folder or a table, as `FaceDataset.source`.
        paths: image IDs, as `FaceDataset.paths`.

    Raises:
        FileNotFoundError: there are no votes beside the faces.
        ValueError: a face is not named by its row of a table or as in FER+, or has no row.
    """
    path = votes_path(source)
    votes = read_votes(path)
    rows = np.array([_row(face, path) for face in paths])
    if rows.max(initial=0) >= len(votes):
        raise ValueError(
            f"{path}: has {len(votes)} rows, expected one for {paths[int(rows.argmax())]}; "
            f"use the complete file"
        )
    return votes.iloc[rows].reset_index(drop=True)


def _row(face: str, path: Path) -> int:
    """Row of a face among the votes, from 0."""
    if line := re.fullmatch(r".*\.csv:(\d+)", face):
        return int(line[1]) - 2  # line 1 is the header, and rows count from 0
    if name := re.fullmatch(r"fer(\d{7})", Path(face).stem):
        return int(name[1])
    raise ValueError(
        f"{path}: expected faces of a FER2013 table, or files named fer0000000.png as in FER+, got "
        f"{face}, whose votes cannot be found; give fer2013.csv as faces"
    )


def _without_single_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """The votes by class name; a single vote for a class is noise and is dropped (section 3)."""
    counts = votes[_COLUMNS]
    return counts.where(counts > 1, 0).rename(columns=_CLASS_NAMES)


def soft_labels(votes: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(N, C) share of the votes for each class; zeros for a face without a clear vote.

    Single votes do not count. A face has no clear vote where no vote for one of `classes` is left,
    or where unknown or not a face has the most votes.
    """
    counts = _without_single_votes(votes)
    # On a tie idxmax takes the first column: an emotion, since _NO_EMOTION comes last.
    clear = ~counts.idxmax(axis=1).isin(_NO_EMOTION)
    of_classes = counts.reindex(columns=list(classes), fill_value=0).mul(clear, axis=0)
    total = of_classes.sum(axis=1).clip(lower=1)
    return of_classes.div(total, axis=0).to_numpy(float)


def majority_labels(votes: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(N,) int64 class with more than half of the votes; -1 where none of `classes` has.

    Single votes do not count.
    """
    counts = _without_single_votes(votes)
    positions = {name: position for position, name in enumerate(classes)}
    winner = counts.idxmax(axis=1).map(positions).fillna(-1)
    clear = counts.max(axis=1) > counts.sum(axis=1) / 2
    return winner.where(clear, -1).to_numpy(np.int64)
