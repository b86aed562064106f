"""The readers of published sets, on sets in miniature in their published layouts."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervit_lib.datasets import FaceDataset, Protocol, audit_faces, load_faces, load_splits
from fervit_lib.datasets.faces import read_faces
from tests.datasets import published_sets as sets

SEVEN = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
EIGHT = ("angry", "contempt", *SEVEN[1:])
CK_SEVEN = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
# Name of the builder: classes, faces per class in train, val and test, and what is skipped.
EXPECTED: dict[str, tuple[tuple[str, ...], tuple[int, int, int], dict[str, int]]] = {
    "raf-db": (SEVEN, (3, 1, 2), {}),
    "raf-db copy": (SEVEN, (3, 1, 2), {}),
    "affectnet arrays": (EIGHT, (3, 1, 2), {"none, uncertain or no face": 3}),
    "affectnet tables": (
        EIGHT,
        (3, 1, 2),
        {"none, uncertain or no face": 3, "no face box in the set": 2},
    ),
    "affectnet folders": (EIGHT, (3, 1, 1), {}),
    # Eight subjects: the first and the sixth are test, the second is val.
    "ck+48": (CK_SEVEN, (15, 3, 6), {}),
    "ck+ sequences": (CK_SEVEN, (5, 1, 2), {"no label in the set": 16}),
    "jaffe": (SEVEN, (14, 2, 4), {}),
    "fer+": (EIGHT, (4, 2, 2), {"no clear vote": 9}),
    "sfew": (SEVEN, (3, 1, 2), {"in no class folder": 3}),
}
SFEW = Protocol(val="split_of_train")  # its Test has no labels: its Val is the test


@pytest.mark.parametrize("name", EXPECTED)
def test_every_split_has_its_faces_of_each_class(tmp_path: Path, name: str) -> None:
    classes, per_class, skipped = EXPECTED[name]
    root = sets.BUILDERS[name](tmp_path / "set")
    splits = load_splits(root, SFEW if name == "sfew" else Protocol())
    for faces, count in zip(splits.values(), per_class, strict=True):
        assert faces.classes == classes
        assert np.bincount(faces.labels).tolist() == [count] * len(classes)
        image, label = faces[0]
        assert min(image.size) > 0 and label == faces.labels[0]
    reasons = Counter(face.reason for faces in splits.values() for face in faces.skipped)
    assert reasons == skipped


@pytest.mark.parametrize("name", sets.BUILDERS)
def test_every_face_has_the_class_of_its_number_or_name(tmp_path: Path, name: str) -> None:
    faces = read_faces(sets.BUILDERS[name](tmp_path / "set"))
    # By the rule of each builder: the class of a face from its path.
    rules: dict[str, Callable[[str], str]] = {
        "raf-db": lambda path: sets.RAF_DB[(int(path.split("_")[1]) - 1) % 7],
        "raf-db copy": lambda path: sets.RAF_DB[int(path.split("/")[1]) - 1],
        "affectnet arrays": lambda path: sets.AFFECTNET[(int(Path(path).stem) - 7) % 8],
        "affectnet tables": lambda path: sets.AFFECTNET[int(Path(path).stem[-4:]) % 8],
        "affectnet folders": lambda path: path.split("/")[0],
        "ck+48": lambda path: path.split("/")[0],
        "ck+ sequences": lambda path: sets.EMOTION_OF_CK[int(path.split("/")[2])],
        "jaffe": lambda path: path[3:5],
        "expw": lambda path: sets.EXPW[
            (int(path.split("_")[-1].split(".")[0]) + path.endswith("#2")) % 7
        ],
        "sfew": lambda path: path.split("/")[1],
        # Clear votes of 4 faces of each class of train come first.
        "fer+": lambda path: sets.EMOTION_OF_FER_PLUS[int(path[-11:-4]) // 4],
    }
    if name == "fer+":
        faces = faces.subset(faces.published == "train")
    for path, label in zip(faces.paths, faces.labels, strict=True):
        assert rules[name](path) == faces.classes[label], path


def test_several_faces_of_a_picture_are_cut_out_of_it(tmp_path: Path) -> None:
    faces = read_faces(sets.expw(tmp_path / "set", pictures=14))
    assert len(faces) == 28
    assert [skipped.reason for skipped in faces.skipped] == ["repeats another row"]
    row = faces.paths.index("image/origin/angry_actor_3.jpg#2")
    assert faces.file(row) == tmp_path / "set" / "image" / "origin" / "angry_actor_3.jpg"
    whole = Image.open(faces.file(row))
    # Top 4, left 20, right 38, bottom 28.
    assert np.array_equal(np.asarray(faces[row][0]), np.asarray(whole.crop((20, 4, 38, 28))))
    part = faces.subset([row])
    assert np.array_equal(np.asarray(part[0][0]), np.asarray(faces[row][0]))


def test_a_box_is_clipped_to_its_picture_and_one_outside_is_unreadable(tmp_path: Path) -> None:
    root = sets.expw(tmp_path / "set", pictures=7)
    table = root / "label" / "label.lst"
    lines = table.read_text().splitlines()
    lines[0] = "angry_actor_0.jpg 0 -5 -2 12 25 22.9 0"
    lines[2] = "angry_actor_1.jpg 0 50 50 60 60 22.9 1"
    table.write_text("\n".join(lines[:-1]))
    faces = read_faces(root)
    assert faces[0][0].size == (12, 25)
    assert audit_faces({"train": faces}).unreadable["path"].tolist() == [faces.paths[2]]


def test_a_repeated_row_of_another_class_is_listed(tmp_path: Path) -> None:
    root = sets.expw(tmp_path / "set", pictures=7)
    table = root / "label" / "label.lst"
    table.write_text(table.read_text() + "angry_actor_0.jpg 0 5 2 12 25 22.9362 6\n")
    audit = audit_faces({"train": read_faces(root)})
    [row] = audit.other_labels.to_dict("records")
    assert (row["label"], row["other_label"]) == ("angry", "neutral")


def test_the_box_of_affectnets_tables_is_x_y_width_height(tmp_path: Path) -> None:
    with_header = read_faces(sets.affectnet_tables(tmp_path / "a"))
    without = read_faces(sets.affectnet_tables(tmp_path / "b", header=False))
    assert with_header.paths == without.paths
    assert with_header.labels.tolist() == without.labels.tolist()
    whole = Image.open(with_header.file(1))
    assert np.array_equal(np.asarray(with_header[1][0]), np.asarray(whole.crop((4, 2, 20, 22))))
    seven = load_splits(tmp_path / "a", Protocol(leave_out="contempt"))
    assert seven["test"].classes == SEVEN
    listed = [face for faces in seven.values() for face in faces.skipped]
    assert sum(face.reason == "class left out" for face in listed) == 6


@pytest.mark.parametrize("name", ["ck+48", "ck+ sequences", "jaffe"])
def test_no_subject_is_in_two_splits_or_folds(tmp_path: Path, name: str) -> None:
    root = sets.BUILDERS[name](tmp_path / "set")
    tested: list[str] = []
    for protocol in (Protocol(), *(Protocol(folds=4, fold=i) for i in range(4))):
        train, val, test = load_splits(root, protocol).values()
        subjects = [set(faces.subjects) for faces in (train, val, test)]
        assert sum(map(len, subjects)) == len(set.union(*subjects))
        tested += sorted(subjects[2]) if protocol.folds else []
    assert len(tested) == len(set(tested)) == (10 if name == "jaffe" else 8)
    assert ("NA" in tested) == (name == "jaffe")


def test_subjects_are_known_by_the_names_of_files_in_class_folders(tmp_path: Path) -> None:
    flat = sets.jaffe(tmp_path / "flat")
    for file in flat.glob("*.tiff"):
        folder = tmp_path / "by class" / "jaffe" / file.name[3:5]
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / f"{file.stem}.png")
    sets.ck_48(tmp_path / "ck" / "CK+48", subjects=4)
    for path, count in (("by class", 10), ("ck", 4)):
        faces = read_faces(tmp_path / path)
        assert len(set(faces.subjects)) == count
        for image, subject in zip(faces.paths, faces.subjects, strict=True):
            assert Path(image).name.startswith(subject)


@pytest.mark.parametrize(("label", "unlike"), [(0, ""), (1, "angry, disgust")])
def test_a_published_set_is_known_by_its_counts(label: int, unlike: str) -> None:
    labels = np.repeat(np.arange(7), [30, 29, 32, 31, 30, 31, 30])  # JAFFE's
    labels[:1] = label
    pixels = np.zeros((len(labels), 2, 2), np.uint8)
    paths = tuple(map(str, range(len(labels))))
    faces = FaceDataset(SEVEN, labels, paths, Path("other"), pixels=pixels)
    [finding] = [row for row in audit_faces({"train": faces}).summary().index if "JAFFE" in row]
    assert finding.endswith(unlike or "none")


def test_a_subject_in_two_splits_is_counted(tmp_path: Path) -> None:
    root = sets.ck_48(tmp_path / "set", subjects=3)
    for split, first in (("train", "S01[01]"), ("test", "S01[12]")):
        for file in sorted(root.glob(f"*/{first}*")):
            (root / split / file.parent.name).mkdir(parents=True, exist_ok=True)
            file.rename(root / split / file.parent.name / file.name)
        # Two frames of subject 11 go to test, as in the well-known split of CK+48.
        if split == "train":
            for file in sorted((root / split).glob("*/S011*15.png")):
                file.rename(root / file.parent.name / file.name)
    for folder in root.iterdir():
        if folder.name not in ("train", "test"):
            folder.rmdir()
    audit = audit_faces(load_splits(root))
    assert audit.summary()["number"]["subjects in several splits"] == 1
    assert audit.shared_subjects.to_dict("records") == [
        {"subject": "S011", "splits": "train, test"}
    ]


@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("header", [True, False])
def test_tables_of_fer_plus_with_and_without_a_box_or_a_header(
    tmp_path: Path, box: bool, header: bool
) -> None:
    faces = read_faces(sets.fer_plus(tmp_path / "set", box=box, header=header))
    assert np.bincount(faces.labels).tolist() == [8] * 8
    assert len(faces.skipped) == 9


@pytest.mark.parametrize("class_folders", [True, False])
@pytest.mark.parametrize("splits", [("train", "test"), ("train_set", "test_set"), ("train", "val")])
@pytest.mark.parametrize("inside", [True, False])
def test_copies_of_raf_db(
    tmp_path: Path, class_folders: bool, splits: tuple[str, str], inside: bool
) -> None:
    root = sets.raf_db_copy(tmp_path / "set", splits=splits, class_folders=class_folders)
    loaded = load_splits(root / "DATASET" if inside else root)
    assert loaded["train"].classes == SEVEN
    sizes = {split: len(faces) for split, faces in loaded.items()}
    assert sizes == {"train": 21, "val": 7, "test": 14}
    for path, label in zip(loaded["test"].paths, loaded["test"].labels, strict=True):
        number = int(Path(path).name.split("_")[1])
        assert loaded["test"].classes[label] == sets.RAF_DB[(number - 1) % 7]


@pytest.mark.parametrize("class_folders", [True, False])
def test_numbers_from_0_are_ambiguous_until_they_are_named(
    tmp_path: Path, class_folders: bool
) -> None:
    root = sets.raf_db_copy(tmp_path / "set", first_number=0, class_folders=class_folders)
    with pytest.raises(ValueError, match=r"classes: .*class_names \(.*raf-db"):
        load_faces(root, "train")
    with pytest.raises(ValueError, match=r"classes: expected numbers of raf-db .*got 0;"):
        load_faces(root, "train", protocol=Protocol(class_names="raf-db"))
    faces = load_faces(root, "test", protocol=Protocol(class_names="raf-db-from-0"))
    assert faces.classes == SEVEN
    for path, label in zip(faces.paths, faces.labels, strict=True):
        number = int(Path(path).name.split("_")[1])
        assert faces.classes[label] == sets.RAF_DB[(number - 1) % 7]


@pytest.mark.parametrize("name", sorted({*sets.BUILDERS} - {"sfew"}))
def test_a_set_may_be_the_only_folder_in_another(tmp_path: Path, name: str) -> None:
    root = sets.BUILDERS[name](tmp_path / "download" / "inner")
    (tmp_path / "download" / "__MACOSX").mkdir()
    outer, inner = load_splits(tmp_path / "download"), load_splits(root)
    for split, faces in inner.items():
        assert outer[split].labels.tolist() == faces.labels.tolist()
        assert outer[split].file(0) == faces.file(0)


def test_a_named_scheme_does_not_disturb_a_set_that_is_known(tmp_path: Path) -> None:
    root = sets.raf_db_copy(tmp_path / "set")
    named = load_faces(root, "test", protocol=Protocol(class_names="raf-db"))
    assert named.labels.tolist() == load_faces(root, "test").labels.tolist()
    for table in root.glob("*.csv"):
        table.unlink()
    with pytest.raises(ValueError, match=r"classes: .*got 1, 2.*class_names \(.*raf-db"):
        load_faces(root, "test")
    without_table = load_faces(root, "test", protocol=Protocol(class_names="raf-db"))
    assert np.bincount(without_table.labels).tolist() == np.bincount(named.labels).tolist()


def test_a_second_label_that_differs_is_counted_and_listed(tmp_path: Path) -> None:
    audit = audit_faces(load_splits(sets.affectnet_folders(tmp_path / "affectnet")))
    assert audit.summary()["number"]["images with another label in the set's table"] == 8
    [row] = audit.other_labels.query("path == 'disgust/image0000010.png'").to_dict("records")
    assert (row["label"], row["other_label"]) == ("disgust", "fear")

    root = sets.raf_db_copy(tmp_path / "raf")
    replace_in("train_labels.csv", "00003_aligned.jpg,3", "00003_aligned.jpg,4")(root)
    [row] = audit_faces(load_splits(root)).other_labels.to_dict("records")
    assert (row["label"], row["other_label"]) == ("disgust", "happy")


def test_missing_and_unlabelled_files_are_listed(tmp_path: Path) -> None:
    root = sets.raf_db(tmp_path / "set")
    aligned = root / "Image" / "aligned"
    (aligned / "train_00001_aligned.jpg").rename(aligned / "other.jpg")
    (aligned / "._other.jpg").touch()
    assert set(read_faces(root).skipped) == {
        ("Image/aligned/train_00001_aligned.jpg", "missing file"),
        ("Image/aligned/other.jpg", "no label in the set"),
    }
    aligned.rename(root / "Image" / "other")
    with pytest.raises(ValueError, match="expected files with a label, found none"):
        read_faces(root)


def test_a_sequence_of_ck_plus_whose_pictures_are_missing_is_listed(tmp_path: Path) -> None:
    root = sets.ck_sequences(tmp_path / "set", subjects=2)
    shutil.rmtree(root / "cohn-kanade-images" / "S010" / "003")
    missing = [face.path for face in read_faces(root).skipped if face.reason == "missing file"]
    assert missing == ["cohn-kanade-images/S010/003/S010_003_00000004.png"]


def replace_in(file: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return spoil


def write_array(array: np.ndarray, allow_pickle: bool = False) -> Callable[[Path], None]:
    return lambda root: np.save(
        root / "train_set" / "annotations" / "8_exp.npy", array, allow_pickle=allow_pickle
    )


class Trap:
    """Leaves a trace if it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (TRACE,)


TRACE = f"/tmp/unpickled-{os.getpid()}"
RAF_LIST, EXPW_LIST = "EmoLabel/list_patition_label.txt", "label/label.lst"


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("raf-db", replace_in(RAF_LIST, ".jpg 3\n", ".jpg 8\n"), "row 3: label: .* 1 surprise"),
        ("raf-db", replace_in(RAF_LIST, ".jpg 3\n", ".jpg\n"), "row 3: expected 2 cells"),
        ("raf-db", replace_in(RAF_LIST, "train_00002", "valid_00002"), "row 2: name: expected"),
        ("raf-db copy", replace_in("train_labels.csv", ",2\n", ",2,9\n"), "row 3: expected 2 cell"),
        ("raf-db copy", replace_in("train_labels.csv", ",2\n", ",b\n"), "row 3: label: expected a"),
        ("raf-db copy", replace_in("train_labels.csv", "train_", "../../x/train_"), "names the fo"),
        ("affectnet arrays", write_array(np.array("11")), "8_exp.npy: label: .* 0 neutral"),
        ("affectnet arrays", write_array(np.array([1, 2])), "8_exp.npy: cannot be read"),
        ("affectnet arrays", write_array(np.array(2.5)), "8_exp.npy: label: expected a whole"),
        ("affectnet arrays", write_array(np.array(Trap()), True), "8_exp.npy: cannot be read"),
        ("affectnet tables", replace_in("training.csv", ",4,-0", ",14,-0"), "row 6: label: exp"),
        ("affectnet tables", replace_in("training.csv", ",4,2,16", ",4,two,16"), "row 2: face_y"),
        ("affectnet tables", replace_in("training.csv", "1/tr", "../../tr"), "names the folder"),
        ("affectnet tables", replace_in("validation.csv", "1/v", "../../../v"), "names the folder"),
        (
            "ck+ sequences",
            lambda r: next(r.rglob("*_emotion.txt")).write_text("happy"),
            "emotion.t",
        ),
        (
            "ck+ sequences",
            lambda r: next(r.rglob("*_emotion.txt")).write_text("9.0"),
            "label: .* 9;",
        ),
        ("expw", replace_in(EXPW_LIST, " 22.9362 1\n", " 22.9362 7\n"), "row 3: label: .* 0 angry"),
        ("expw", replace_in(EXPW_LIST, " 5 2 ", " 5 x "), "row 1: left: expected a whole number"),
        ("fer+", replace_in("FER2013Valid/label.csv", ",7,", ",seven,"), "Valid/label.csv, row 1"),
        ("fer+", replace_in("FER2013Test/label.csv", ",7,", ","), "Test/label.csv, row "),
        (
            "fer+",
            lambda r: (r / "FER2013Test/label.csv").write_bytes(b"\xff\xfe,"),
            "cannot be rea",
        ),
        (
            "sfew",
            lambda r: (r / "Val_Aligned_Faces" / "Happy").mkdir(parents=True),
            "Val_Aligned_Faces and Val_Aligned_Faces_new both mean val",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, spoil, message: str) -> None:
    root = sets.BUILDERS[name](tmp_path / "set")
    spoil(root)
    with pytest.raises(ValueError, match=message):
        read_faces(root)
    assert not Path(TRACE).exists()


def test_links_out_of_the_set_are_refused(tmp_path: Path) -> None:
    sets.picture(tmp_path / "private.jpg")
    root = sets.raf_db(tmp_path / "set")
    link = root / "Image" / "aligned" / "train_00001_aligned.jpg"
    link.unlink()
    link.symlink_to(tmp_path / "private.jpg")
    with pytest.raises(ValueError, match="symbolic link"):
        read_faces(root)


@pytest.mark.parametrize("link", ["basic", "DATASET"])
def test_a_folder_of_the_set_that_is_a_link_out_of_it_is_refused(tmp_path: Path, link: str) -> None:
    """The only folder in another, and the folder of the pictures of RAF-DB's copy."""
    private = sets.raf_db_copy(tmp_path / "private")
    root = tmp_path / "set"
    root.mkdir()
    (root / link).symlink_to(private if link == "basic" else private / "DATASET")
    for table in private.glob("*.csv"):
        (root / table.name).write_bytes(table.read_bytes())
    with pytest.raises(ValueError, match="symbolic link"):
        read_faces(root)


def test_sfew_has_no_test_of_its_own(tmp_path: Path) -> None:
    root = sets.sfew(tmp_path / "set")
    assert len(load_faces(root, "train")) == 28
    assert len(load_faces(root, "val")) == 14
    with pytest.raises(ValueError, match="no test faces.*val: split_of_train"):
        load_splits(root)
    published = set(load_faces(root, "val").paths)
    assert set(load_faces(root, "test", protocol=SFEW).paths) == published
