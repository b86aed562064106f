"""Why a face is left out: every reason, and the list of the faces that were.

A face that lies on disk can be left out in these places, and in no others:

| reason               | decided by                                                           |
|----------------------|----------------------------------------------------------------------|
| HIDDEN, NOT_A_FILE,  | `face_folders.list_images`, when a folder is listed                  |
| UNKNOWN_SUFFIX       |                                                                      |
| NO_CLEAR_VOTE        | `faces.label_by_votes`, where `labels` is majority or soft           |
| UNREADABLE           | `Audit.clean`, after `audit_faces` has read every image              |
| DUPLICATE            | `Audit.clean` with `drop_cross_split_duplicates`                     |

Each of them adds to `FaceDataset.skipped`; `list_skipped` shows all. What raises an error is not
skipped: a damaged row of a table, a class folder that train does not have. Not skipped but chosen
are the faces that a parameter leaves out: `FaceDataset.stratified` (`fraction`), `move_to_train`
(`val_to_train`), the part of train that becomes val where a set has none (`splits`), and later
`fraction` and `shots` of a training. A face that the landmark detector does not find stays in the
set, resized but not cropped (`FaceCrop`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

HIDDEN = "hidden file"
UNKNOWN_SUFFIX = "unknown suffix"
NOT_A_FILE = "not a regular file"  # a folder within a class folder, or a pipe
NO_CLEAR_VOTE = "no clear vote"
UNREADABLE = "unreadable"
DUPLICATE = "also in another split"


class Skipped(NamedTuple):
    """A face that was left out."""

    path: str  # as in `FaceDataset.paths`
    reason: str  # one of the constants above


def list_skipped(datasets: Mapping[str, Any]) -> pd.DataFrame:
    """One row per face that was left out of these `FaceDataset`s, by split: split, path, reason.

    `.value_counts(["split", "reason"])` of it counts them.
    """
    rows = [(split, *face) for split, faces in datasets.items() for face in faces.skipped]
    return pd.DataFrame(rows, columns=["split", "path", "reason"])
