"""Why a face is left out: every reason, and the list of the faces that were.

A face is a file in a class folder of a split, such as `train/happy/1.png`, or a row of a table.
`01_encode` lists it as skipped, with one of these reasons:

| reason              | when                                           | decided by                |
|---------------------|------------------------------------------------|---------------------------|
| HIDDEN, NOT_A_FILE, | its name, type or suffix                       | `face_folders`            |
| UNKNOWN_SUFFIX, HEIC|                                                |                           |
| NO_CLASS, NO_SPLIT  | it lies beside the class folders, or in a      | `face_folders`            |
|                     | folder beside the splits                       |                           |
| LEFT_OUT            | `leave_out` has its class                      | `splits.deal`             |
| NOT_USED            | it is of the set's own val, and                | `splits.deal`             |
|                     | `val: split_of_train`                          |                           |
| MISSING, REPEATED,  | a list of a published set names no file, or    | `listed_faces` and the    |
| NO_LABEL, NO_BOX,   | one face twice; a file without a label or a    | reader of the set         |
| NO_EXPRESSION       | box; a face that its authors could not label   |                           |
| NO_CLEAR_VOTE       | `load_faces` with `labels` majority or soft    | `faces.label_by_votes`    |
| UNREADABLE          | Pillow cannot decode it                        | `Audit.clean`             |
| DUPLICATE           | `drop_duplicates: true`: a later split has it  | `Audit.clean`             |
| NO_FACE             | `misses: leave_out`: the landmark detector     | `01_encode`, with         |
|                     | does not find it                               | `find_faces`              |

Each adds to `FaceDataset.skipped`; `list_skipped(sets)` shows them all, one row per face. What an
operating system writes beside files (`image_files.is_ignored`) is no face and is not listed.

A face that is not in that list can still be missing from a training:

- A parameter chose other faces: `fraction` of `01_encode` (`FaceDataset.stratified`), or
  `data_fraction` or `shots` of `02_train` (`training.data.training_subset`).
- It is a face of val: a set without a val split gives an eighth of train to val, and a set without
  any splits is dealt to three (`splits.deal`). With `val_to_train` the reverse happens
  (`splits.move_to_train`).
- `labels: soft` of `02_train` leaves out faces without a clear vote (`training.data.face_dls`).
- It was added after `01_encode` had run: a training reads the codes, not the folder.
- An epoch leaves out its last batch if that is not full; other faces each epoch.

What raises an error is not skipped: a damaged row of a table, a class of unknown name, a class that
train does not have. A face that the landmark detector does not find stays in the set with `misses:
whole` or `template` (`FaceCrop`); `01_encode` counts and shows them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

HIDDEN = "hidden file"
UNKNOWN_SUFFIX = "unknown suffix"  # see `image_files.SUFFIXES`
HEIC = "HEIC: convert to JPEG"
NOT_A_FILE = "not a regular file"  # a pipe, or a link to a folder
NO_CLASS = "in no class folder"
NO_SPLIT = "in no folder of a split"
LEFT_OUT = "class left out"
NOT_USED = "val of the set, not used"
NO_CLEAR_VOTE = "no clear vote"
MISSING = "missing file"
REPEATED = "repeats another row"
NO_LABEL = "no label in the set"
NO_BOX = "no face box in the set"
NO_EXPRESSION = "none, uncertain or no face"  # AffectNet's 8 to 10
UNREADABLE = "unreadable"  # the error is in `Audit.unreadable`
DUPLICATE = "also in another split"  # which one is in `Audit.duplicates`
NO_FACE = "no face found"


class Skipped(NamedTuple):
    """A face that was left out."""

    path: str  # as in `FaceDataset.paths`
    reason: str  # one of the constants above


def list_skipped(datasets: Mapping) -> pd.DataFrame:
    """The faces that were left out of these `FaceDataset`s: one row each, split, path and reason.

    To find one face: `table[table["path"] == "train/happy/1.png"]`; to count them:
    `table.value_counts(["split", "reason"])`.

    Raises:
        ValueError: `datasets` is one set.
    """
    if not isinstance(datasets, Mapping):
        raise ValueError(
            f"datasets: expected sets by split, as load_splits returns them, got a "
            f"{type(datasets).__name__}; give {{'train': it}}"
        )
    rows = [(split, *face) for split, faces in datasets.items() for face in faces.skipped]
    return pd.DataFrame(rows, columns=["split", "path", "reason"])
