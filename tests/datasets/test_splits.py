from pathlib import Path

import numpy as np
import pytest

from fervit_lib.datasets import SPLITS, load_faces, move_to_train
from tests.datasets.conftest import table_rows, write_folder, write_table


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_share_of_val_moves_to_train_and_no_face_is_lost(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        source = write_folder(tmp_path, {"train": 4, "val": 8, "test": 1})
    else:
        source = write_table(
            tmp_path / "fer2013.csv",
            table_rows({"Training": 4, "PublicTest": 8, "PrivateTest": 1})[0],
        )
    before = {split: load_faces(source, split) for split in SPLITS}
    after = move_to_train(before, 0.75, seed=0)
    assert np.bincount(after["val"].labels).tolist() == [
        len(before["val"]) // (4 * len(before["val"].classes))
    ] * len(before["val"].classes)
    assert after["test"] is before["test"]
    places = {
        path: (split, i) for split in ("train", "val") for i, path in enumerate(before[split].paths)
    }
    joined = [
        (path, i, split) for split in ("train", "val") for i, path in enumerate(after[split].paths)
    ]
    assert sorted(path for path, _, _ in joined) == sorted(places)
    for path, i, split in joined:
        (old, label), (new, new_label) = before[places[path][0]][places[path][1]], after[split][i]
        assert label == new_label and np.array_equal(np.asarray(old), np.asarray(new))
    with pytest.raises(ValueError, match=r"val_to_train: expected a number in \[0, 1\), got 1"):
        move_to_train(before, 1.0, seed=0)
    with pytest.raises(ValueError, match="val_to_train: 0.99 leaves no face of angry in val"):
        move_to_train(before, 0.99, seed=0)
