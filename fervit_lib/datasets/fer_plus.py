"""FER+: ten people's votes on every face of FER2013 (Barsoum et al. 2016), as labels or as distributions.

`fer2013new.csv` lies beside the faces. It has the rows of Kaggle's tables in their order, and names each face
`fer0000000.png`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fervit_lib.system.errors import explain_read_error

VOTES = "fer2013new.csv"
_OURS = {
    "neutral": "neutral",
    "happiness": "happy",
    "surprise": "surprise",
    "sadness": "sad",
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "contempt": "contempt",
}
_NO_FACE = ["unknown", "NF"]


def votes_path(source: Path) -> Path:
    """Where the votes on the faces of `source`, a folder or a table, lie if there are any."""
    return (source if source.is_dir() else source.parent) / VOTES


def read_votes(path: Path) -> pd.DataFrame:
    """A row a face of FER2013: Usage, `Image name`, and the votes for each emotion, unknown and NF (no face).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, or a cell is no number of votes.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no FER+ votes there; place fer2013new.csv of FER+ beside the faces"
        )
    with explain_read_error(path, "cannot be read as FER+ votes", "download it again"):
        votes = pd.read_csv(path)
    if missing := [name for name in ("Usage", *_OURS, *_NO_FACE) if name not in votes]:
        raise ValueError(
            f"{path}: expected FER+ votes, but it has no column {', '.join(missing)}; download it again"
        )
    counts = votes[[*_OURS, *_NO_FACE]].apply(pd.to_numeric, errors="coerce")
    if (wrong := ~np.isfinite(counts.to_numpy(float)) | (counts.to_numpy(float) < 0)).any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{path}, row {row + 2}: {counts.columns[column]} is {votes[counts.columns[column]].iloc[row]}, expected "
            f"a number of votes; download it again"
        )
    return votes


def vote_shares(votes: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
    """(N, C) share of the votes for each class; a row of zeros for a face without a verdict.

    Single votes are dropped as slips. There is no verdict where no emotion of `classes` is left, or `unknown` or `no
    face` has the most votes.
    """
    counts = votes[[*_OURS, *_NO_FACE]].to_numpy(float)
    counts = np.where(counts > 1, counts, 0)
    ours = np.zeros((len(votes), len(classes)))
    for column, name in enumerate(_OURS.values()):
        if name in classes:
            ours[:, classes.index(name)] = counts[:, column]
    ours[counts.argmax(1) >= len(_OURS)] = 0
    total = ours.sum(1, keepdims=True)
    return np.divide(ours, total, out=np.zeros_like(ours), where=total > 0)


def majority(votes: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
    """(N,) class with more than half of all votes that are no single ones; -1 where no class of `classes` has."""
    counts = votes[[*_OURS, *_NO_FACE]].to_numpy(float)
    counts = np.where(counts > 1, counts, 0)
    number = np.array(
        [classes.index(name) if name in classes else -1 for name in (*_OURS.values(), "", "")]
    )
    winner = counts.argmax(1)
    return np.where(counts.max(1) > counts.sum(1) / 2, number[winner], -1)


def votes_on(source: Path, paths: Sequence[str]) -> pd.DataFrame:
    """The votes on the faces `paths` of the set `source`, as a `FaceDataset` names them, in their order.

    Raises:
        FileNotFoundError: there are no votes beside the faces.
        ValueError: a face is named neither as FER+ does nor by its row of a table, or there is no row for it.
    """
    path = votes_path(source)
    votes = read_votes(path)
    rows = np.array([_row(face, path) for face in paths])
    if rows.max(initial=0) >= len(votes):
        raise ValueError(
            f"{path}: has {len(votes)} rows, expected one for {paths[int(rows.argmax())]}; take all of it"
        )
    return votes.iloc[rows].reset_index(drop=True)


def _row(face: str, path: Path) -> int:
    if line := re.fullmatch(r".*\.csv:(\d+)", face):
        return int(line[1]) - 2  # the first line is the header
    if name := re.fullmatch(r"fer(\d{7})", Path(face).stem):
        return int(name[1])
    raise ValueError(
        f"{path}: expected faces of a FER2013 table, or files named fer0000000.png as in FER+, got {face}; these "
        f"cannot be told apart; give fer2013.csv as faces"
    )
