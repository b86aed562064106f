from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fervit_lib.datasets import (
    EMOTIONS,
    SPLITS,
    FaceDataset,
    Protocol,
    describe_splits,
    load_faces,
    load_splits,
    move_to_train,
)
from fervit_lib.datasets.splits import deal, split_of
from tests.datasets.conftest import table_rows, write_folder, write_table


def make_faces(n: int, classes: tuple[str, ...] = EMOTIONS, **fields) -> FaceDataset:
    """`n` faces of the classes in turn, without a split."""
    paths = tuple(f"{i}.png" for i in range(n))
    return FaceDataset(classes, np.arange(n) % len(classes), paths, Path("set"), **fields)


def subjects_of(sets: dict[str, FaceDataset]) -> dict[str, set[str]]:
    return {split: set(faces.subjects.tolist()) for split, faces in sets.items()}


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("train", "Training", "TRAIN", "train_set"), "train"),
        (("val", "valid", "Validation", "PublicTest", "val_set"), "val"),
        (("test", "Testing", "PrivateTest", "test set"), "test"),
        (("tset", "images", "happy", ""), None),
    ],
)
def test_names_of_splits(names: tuple[str, ...], split: str | None) -> None:
    assert {split_of(name) for name in names} == {split}


def test_public_val_is_used_and_an_eighth_of_train_is_val_by_choice(tmp_path: Path) -> None:
    rows, _ = table_rows({"Training": 8, "PublicTest": 3, "PrivateTest": 2})
    path = write_table(tmp_path / "fer2013.csv", rows)
    public = load_splits(path)
    assert [len(public[split]) for split in SPLITS] == [56, 21, 14]
    cut = load_splits(path, Protocol(val="split_of_train"))
    assert [len(cut[split]) for split in SPLITS] == [49, 7, 14]
    assert {*cut["train"].paths, *cut["val"].paths} == set(public["train"].paths)
    # The faces of PublicTest join nothing, and are listed.
    assert {face.path for face in cut["train"].skipped} == set(public["val"].paths)
    for split in SPLITS:
        protocol = Protocol(val="split_of_train")
        assert load_faces(path, split, protocol=protocol).paths == cut[split].paths


def test_a_set_without_splits_is_dealt_the_same_way_every_time() -> None:
    faces = make_faces(140)
    sets = deal(faces, Protocol())
    assert [np.bincount(sets[split].labels).tolist() for split in SPLITS] == [
        [14] * 7, [2] * 7, [4] * 7,
    ]  # fmt: skip
    assert sorted(path for part in sets.values() for path in part.paths) == sorted(faces.paths)
    assert any(sets["test"].paths[i] != f"{i}.png" for i in range(28))  # in no order of the files
    backwards = faces.subset(np.arange(140)[::-1])
    for split, part in deal(backwards, Protocol()).items():
        assert set(part.paths) == set(sets[split].paths)
    with pytest.raises(ValueError, match="train, found none of happy"):
        deal(faces.subset((faces.labels != 3) | (np.arange(140) < 14)), Protocol())


@pytest.mark.parametrize("published", [None, "train", "train and test"])
def test_subjects_are_in_one_split(published: str | None) -> None:
    rng = np.random.default_rng(0)
    subjects = np.array([f"S{i}" for i in rng.permutation(np.arange(280) // 7 % 40)])
    faces = make_faces(280, subjects=subjects)
    if published:
        is_test = np.isin(subjects, ["S3", "S11"]) & ("test" in published)
        faces = replace(faces, published=np.where(is_test, "test", "train"))
    sets = deal(faces, Protocol())
    assert sum(map(len, sets.values())) == 280
    parts = subjects_of(sets)
    assert parts.keys() >= {"train", "val"}
    assert sum(map(len, parts.values())) == 40
    assert len(parts["train"]) > 5 * len(parts["val"]) > 0


def test_whose_splits_are_used_is_said(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 16, "val": 2, "test": 2}, ("happy", "sad"))
    descriptions = {
        val: describe_splits(load_splits(root, protocol := Protocol(val=val)), protocol)
        for val in ("public", "split_of_train")
    }
    assert "train" not in descriptions["public"]
    assert "val from its train" in descriptions["split_of_train"]


def test_folds_take_every_kth_subject_by_ascending_id() -> None:
    subjects = np.array([f"S{number}" for number in (2, 10, 1, 7, 30, 4)])
    faces = make_faces(12, ("happy", "sad"), subjects=np.repeat(subjects, 2))
    folds = [deal(faces, Protocol(folds=3, fold=fold)) for fold in range(3)]
    # In ascending order 1 2 4 7 10 30: numbers are compared as numbers.
    tests = [subjects_of(sets)["test"] for sets in folds]
    assert tests == [{"S1", "S7"}, {"S2", "S10"}, {"S4", "S30"}]
    for fold, sets in enumerate(folds):
        parts = subjects_of(sets)
        assert parts["val"] == tests[(fold + 1) % 3]
        assert parts["train"] == tests[(fold + 2) % 3]
        assert sum(map(len, sets.values())) == 12


def test_folds_ignore_published_splits_and_may_lack_a_class_in_test() -> None:
    """CK+'s tenth fold has no fear."""
    subjects = np.repeat(["a", "b", "c"], 4)
    published = np.resize(["train", "test"], 12)
    faces = make_faces(12, ("fear", "happy"), subjects=subjects, published=published)
    faces = faces.subset((subjects != "a") | (faces.labels == 1))
    sets = deal(faces, Protocol(folds=3, fold=0))
    assert subjects_of(sets)["test"] == {"a"}
    assert set(sets["test"].labels) == {1}
    assert sets["test"].classes == ("fear", "happy")


@pytest.mark.parametrize(
    ("fields", "protocol", "argument"),
    [
        ({}, {"folds": 3}, "folds: .*12 of 12"),
        ({"subjects": np.array(["a", ""] * 6)}, {"folds": 3}, "folds: .*6 of 12"),
        ({"subjects": np.array(["a", "b", "c"] * 4)}, {"folds": 4}, "folds: .* at most 3"),
        ({}, {"folds": 2}, "folds"),
        ({}, {"folds": -1}, "folds"),
        ({}, {"folds": 3, "fold": 3}, "fold: "),
        ({}, {"fold": 1}, "fold: "),
        ({}, {"val": "private"}, "val: "),
        ({}, {"class_names": "mine"}, "class_names: "),
        ({}, {"leave_out": "hapy"}, "leave_out: .*hapy"),
        ({}, {"leave_out": "happy, sad"}, "leave_out: "),
    ],
)
def test_a_protocol_that_does_not_fit(fields: dict, protocol: dict, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        deal(make_faces(12, ("happy", "sad"), **fields), Protocol(**protocol))


@pytest.mark.parametrize("name", ["contempt", "Contemptuous", "CONTEMPT "])
def test_a_class_that_is_left_out_is_counted(name: str) -> None:
    faces = make_faces(80, (*EMOTIONS, "contempt"))
    sets = deal(faces, Protocol(leave_out=name))
    assert sets["train"].classes == EMOTIONS
    assert sum(map(len, sets.values())) == 70
    assert len(sets["train"].skipped) == 10


def test_a_class_of_unknown_name_can_be_left_out() -> None:
    faces = make_faces(40, ("happy", "sad", "tired", "unknown"))
    with pytest.raises(ValueError, match="classes: .*tired, unknown"):
        deal(faces, Protocol())
    assert deal(faces, Protocol(leave_out="tired,unknown"))["train"].classes == ("happy", "sad")
    own = deal(faces, Protocol(class_names="own"))
    assert own["train"].classes == ("happy", "sad", "tired", "unknown")


@pytest.mark.parametrize(
    ("scheme", "numbers", "emotions"),
    [
        ("raf-db", "1234567", "surprise fear disgust happy sad angry neutral"),
        ("affectnet", "01234567", "neutral happy sad surprise fear disgust angry contempt"),
        ("fer2013", "0123456", "angry disgust fear happy sad surprise neutral"),
    ],
)
def test_numbers_are_named_by_a_scheme(scheme: str, numbers: str, emotions: str) -> None:
    faces = make_faces(10 * len(numbers), tuple(numbers))
    with pytest.raises(ValueError, match=f"classes: .*class_names.*{scheme}"):
        deal(faces, Protocol())
    sets = deal(faces, Protocol(class_names=scheme))
    assert sets["train"].classes == tuple(sorted(emotions.split()))
    for part in sets.values():
        for path, label in zip(part.paths, part.labels, strict=True):
            number = int(Path(path).stem) % len(numbers)
            assert part.classes[label] == emotions.split()[number]


def test_classes_that_mean_one_emotion_are_merged(tmp_path: Path) -> None:
    names = ("Happiness", "anger", "angry", "happy", "0_Sadness")
    root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1}, names)
    faces = load_faces(root, "train")
    assert faces.classes == ("angry", "happy", "sad")
    assert np.bincount(faces.labels).tolist() == [4, 4, 2]
    for path, label in zip(faces.paths, faces.labels, strict=True):
        assert faces.classes[label][:3].lower() in path.lower().replace("anger", "angry")


def test_a_published_split_that_lacks_a_class(tmp_path: Path) -> None:
    rows, _ = table_rows({"Training": 2, "PublicTest": 1, "PrivateTest": 1})
    path = write_table(tmp_path / "fer2013.csv", rows[:-1])
    with pytest.raises(ValueError, match="in test, found none of neutral"):
        load_splits(path)


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_share_of_val_moves_to_train_and_no_face_is_lost(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        source = write_folder(tmp_path, {"train": 4, "val": 8, "test": 1})
    else:
        source = write_table(
            tmp_path / "fer2013.csv",
            table_rows({"Training": 4, "PublicTest": 8, "PrivateTest": 1})[0],
        )
    before = load_splits(source)
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


def test_subjects_of_the_same_number_are_dealt_alike_in_every_process() -> None:
    names = ["1", "01", "S1", "S01", "001", "2"]
    faces = FaceDataset(
        ("happy",), np.zeros(6, int), tuple("abcdef"), Path("x"), subjects=np.array(names)
    )
    sets = deal(faces, Protocol())
    # By name where the numbers are equal: 001 test, 01 val, 1 train.
    assert [sets[split].subjects.tolist() for split in ("test", "val")] == [["S1", "001"], ["01"]]
