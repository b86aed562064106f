import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervit_lib.datasets import audit_faces, list_skipped, load_faces, load_splits
from fervit_lib.datasets.faces import read_faces
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


def test_an_empty_folder_is_no_class(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1}, ("happy", "sad"))
    (root / "train" / "unsorted").mkdir()
    assert load_faces(root, "train").classes == ("happy", "sad")


def save_face(path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (48, 48), hash(path.name) % 256).save(path, **options)


def test_every_file_is_taken_or_listed(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1}, ("happy", "sad"))
    for path in (
        "train/happy/a.TIFF",
        "train/sad/subject 7/1.png",
        "train/sad/subject 7/session 1/2.png",
        "test/sad/b.xcf",
        "train/stray.png",
        "train/happy/.c.png",
        "extra/happy/1.png",
        "extra/more/deep/2.png",
        "root.png",
        "train/.checkpoints/happy/1.png",
        "test/labels.csv",
    ):
        save_face(root / path, format="PNG")
    (root / "README.md").touch()
    sets = load_splits(root)
    assert {"train/happy/a.TIFF", "train/sad/subject 7/1.png"} < set(sets["train"].paths)
    skipped = list_skipped(sets)
    assert dict(zip(skipped["path"], skipped["reason"], strict=True)) == {
        "test/sad/b.xcf": "unknown suffix",
        "train/stray.png": "in no class folder",
        "train/happy/.c.png": "hidden file",
        "extra/happy/1.png": "in no folder of a split",
        "extra/more/deep/2.png": "in no folder of a split",
        "root.png": "in no folder of a split",
        "train/.checkpoints": "hidden file",
        "test/labels.csv": "in no class folder",
    }
    assert set(skipped.loc[skipped["split"] == "test", "path"]) == {
        "test/sad/b.xcf",
        "test/labels.csv",
    }
    assert audit_faces(sets).summary()["number"]["files left out"] == len(skipped)


def test_what_operating_systems_write_is_not_even_listed(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1})
    for path in (
        "._train",
        "__MACOSX/train/happy/._0.png",
        "train/.DS_Store",
        "train/happy/._0.png",
        "train/happy/Thumbs.db",
        "val/sad/desktop.ini",
    ):
        save_face(root / path, format="PNG")
    sets = load_splits(root)
    assert [len(faces) for faces in sets.values()] == [6, 3, 3]
    assert list_skipped(sets).empty


def test_a_folder_in_a_class_is_a_subject(tmp_path: Path) -> None:
    for path in ("happy/S1/0.png", "happy/S2/b/1.png", "sad/S1/2.png", "sad/3.png"):
        save_face(tmp_path / "train" / path)
    faces = read_faces(tmp_path)
    assert dict(zip(faces.paths, faces.subjects, strict=True)) == {
        "train/happy/S1/0.png": "S1",
        "train/happy/S2/b/1.png": "S2",
        "train/sad/3.png": "",
        "train/sad/S1/2.png": "S1",
    }


@pytest.mark.parametrize(
    "names",
    [
        ("train", "validation", "test"),
        ("train", "valid", "test"),
        ("Training", "PublicTest", "PrivateTest"),
        ("TRAIN", "Val", "Testing"),
    ],
)
@pytest.mark.parametrize("outer", ["", "archive", "archive/images"])
def test_names_of_split_folders(tmp_path: Path, names: tuple[str, ...], outer: str) -> None:
    write_folder(tmp_path / outer, dict(zip(names, (4, 3, 2), strict=True)))
    sets = load_splits(tmp_path)
    prefix = f"{outer}/" if outer else ""
    for split, name, n in zip(("train", "val", "test"), names, (12, 9, 6), strict=True):
        assert len(sets[split]) == n
        assert sets[split].paths[0] == f"{prefix}{name}/angry/0.png"
        assert sets[split][0][0].size == (48, 48)


def test_train_and_val_without_test(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 4, "val": 2})
    assert len(load_faces(root, "val")) == 6
    for load in (load_splits, lambda root: load_faces(root, "test")):
        with pytest.raises(ValueError, match="split: .*no test faces.*val: split_of_train"):
            load(root)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    write_folder(tmp_path, {"all": 10})
    sets = load_splits(tmp_path / "all")
    assert [np.bincount(faces.labels).tolist() for faces in sets.values()] == [
        [7] * 3, [1] * 3, [2] * 3,
    ]  # fmt: skip
    assert sets["test"].paths[0].startswith("angry/")


def test_a_link_up_is_not_followed(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1})
    (root / "train" / "happy" / "again").symlink_to(root / "train")
    assert len(load_faces(root, "train")) == 6


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
        (lambda root: save_face(root / "test/hapy/1.png"), "test", "classes: .*got hapy"),
        (lambda root: (root / "Valid").mkdir(), "val", "Valid and val both mean val"),
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
    with pytest.raises(ValueError, match="train, found none of angry"):
        load_faces(root, "val")
