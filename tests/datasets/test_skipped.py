from pathlib import Path

import pytest

from fervit_lib.datasets import audit_faces, list_skipped, load_faces
from tests.datasets.conftest import fer_plus_votes, write_folder

VOTES = {"neutral": 9}


def test_every_face_that_is_left_out_is_listed_once_with_its_reason(tmp_path: Path) -> None:
    classes = ("happy", "neutral", "sad")
    root = write_folder(tmp_path, {"train": 4, "val": 1, "test": 1}, classes)
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        path.rename(path.with_name(f"fer{number:07d}.png"))
    files = sorted(root.rglob("*.png"))  # of test, train, val
    test, unclear, broken, leak = files[0], files[3], files[4], files[5]
    broken.write_bytes(broken.read_bytes()[:100])
    leak.write_bytes(test.read_bytes())
    (root / "val" / "sad" / "notes.txt").touch()
    votes = [VOTES] * len(files)
    votes[3] = {"unknown": 9}
    votes.insert(1, {"NF": 10})
    fer_plus_votes(votes).to_csv(root / "fer2013new.csv", index=False)

    sets = {split: load_faces(root, split, "majority") for split in ("train", "val", "test")}
    num_loaded = sum(map(len, sets.values()))
    sets = audit_faces(sets).clean(sets, drop_cross_split_duplicates=True)
    skipped = list_skipped(sets)
    assert skipped.columns.tolist() == ["split", "path", "reason"]
    assert dict(zip(skipped["path"], skipped["reason"], strict=True)) == {
        str(unclear.relative_to(root)): "no clear vote",
        str(broken.relative_to(root)): "unreadable",
        str(leak.relative_to(root)): "also in another split",
        "val/sad/notes.txt": "unknown suffix",
    }
    assert skipped["split"].tolist() == ["train", "train", "train", "val"]
    assert num_loaded - sum(map(len, sets.values())) == 2


def test_one_set_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1})
    for function in (list_skipped, audit_faces):
        with pytest.raises(ValueError, match="datasets: .*FaceDataset"):
            function(load_faces(root, "train"))
