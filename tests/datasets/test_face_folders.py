import os
from pathlib import Path

import numpy as np
import pytest

from fervit_lib.datasets import load_faces
from tests.datasets.conftest import write_folder


def test_classes_are_alphabetical_and_every_image_is_found(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 4, "val": 2, "test": 3}, classes=("sad", "angry"))
    for split, n in (("train", 4), ("val", 2), ("test", 3)):
        faces = load_faces(root, split)
        assert faces.classes == ("angry", "sad")
        assert len(faces) == 2 * n
        image, label = faces[len(faces) - 1]
        assert (image.size, image.mode, label) == ((48, 48), "L", 1)
        assert faces.paths[0] == f"{split}/angry/0.png"
        assert not faces.synthetic
        assert not faces.skipped


def test_what_is_no_image_is_skipped_and_listed_with_its_reason(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 2, "val": 2, "test": 2})
    folder = root / "train" / "happy"
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "link.png").symlink_to(root / "test")
    os.mkfifo(folder / "pipe.png")
    faces = load_faces(root, "train")
    assert len(faces) == 6
    assert set(faces.skipped) == {
        ("train/happy/notes.txt", "unknown suffix"),
        ("train/happy/.hidden.png", "hidden file"),
        ("train/happy/link.png", "not a regular file"),
        ("train/happy/pipe.png", "not a regular file"),
    }
    assert not load_faces(root, "test").skipped


def test_a_missing_val_split_is_always_the_same_part_of_train(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 16, "test": 2})
    (root / "train" / "happy" / "notes.txt").write_text("no image")
    train = load_faces(root, "train")
    val = load_faces(root, "val")
    assert np.bincount(val.labels).tolist() == [2, 2, 2]
    assert not set(train.paths) & set(val.paths)
    assert len(train) + len(val) == 48
    assert load_faces(root, "val").paths == val.paths
    assert len(train.skipped) == 1
    assert not val.skipped  # what lies in train is listed once


def remove_val_faces(root: Path) -> None:
    for path in (root / "val" / "happy").iterdir():
        path.unlink()


def remove_train(root: Path) -> None:
    (root / "train").rename(root / "trian")


@pytest.mark.parametrize(
    ("spoil", "split", "message"),
    [
        (lambda root: (root / "test").rename(root / "tset"), "test", "split: .* no test"),
        (remove_val_faces, "val", "in val, found none of happy"),
        (lambda root: (root / "test" / "hapy").mkdir(), "test", "classes: .*got hapy"),
        (remove_train, "train", "no folder 'train' in it, found test, val"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(tmp_path: Path, spoil, split, message) -> None:
    root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1})
    spoil(root)
    with pytest.raises(ValueError, match=message):
        load_faces(root, split)


def test_one_training_image_of_a_class_is_too_few_for_a_val_split(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 1, "test": 1})
    with pytest.raises(ValueError, match="class 'angry' has 1 training image"):
        load_faces(root, "val")
