"""Published sets of faces, in their own layouts and in those of widespread copies.

- RAF-DB: Li et al. 2017, *Reliable Crowdsourcing and Deep Locality-Preserving Learning for
  Expression Recognition in the Wild*. Train and test are published; there is no val.
- AffectNet: Mollahosseini et al. 2017, *AffectNet: A Database for Facial Expression, Valence, and
  Arousal Computing in the Wild*. Its validation set is its published test: the test set was never
  released.
- CK+: Lucey et al. 2010, *The Extended Cohn-Kanade Dataset (CK+)*. It has subjects and no splits.
- JAFFE: Lyons et al. 1998, *Coding Facial Expressions with Gabor Wavelets*. Ten subjects, 213
  pictures, no splits.
- ExpW: Zhang et al. 2018, *From Facial Expression Recognition to Interpersonal Relation
  Prediction*. It has no splits and no subjects.
- FER+ as its own set of eight classes: github.com/microsoft/FERPlus.

Each reader yields the faces as the set lists them, for `list_faces`.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from fervit_lib.datasets.class_names import EIGHT_EMOTIONS, SCHEMES, emotion_of
from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.face_folders import load_face_folder
from fervit_lib.datasets.fer_plus import VOTE_COLUMNS, count_votes, majority_labels
from fervit_lib.datasets.listed_faces import (
    REMEDY,
    WHOLE,
    ListedFace,
    has_names,
    list_faces,
    numbered_class,
    read_rows,
    whole_number,
)
from fervit_lib.datasets.skipped import NO_CLEAR_VOTE, NO_EXPRESSION, NO_LABEL, Skipped
from fervit_lib.datasets.splits import split_of
from fervit_lib.system.errors import check_symlink, explain_read_error
from fervit_lib.system.prefetch import PrefetchPool

Rows = Iterator[ListedFace | Skipped]

RAF_DB_LIST = "EmoLabel/list_patition_label.txt"  # sic
AFFECTNET_ARRAYS = "*_set/annotations/*_exp.npy"
AFFECTNET_TABLES = {"training.csv": "train", "validation.csv": "test"}
AFFECTNET_BOX = ("face_x", "face_y", "face_width", "face_height")
AFFECTNET_COLUMNS = (
    "subdirectory_filepath",
    *AFFECTNET_BOX,
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
AFFECTNET_IMAGES = "Manually_Annotated_Images"
_NO_EXPRESSION = ("8", "9", "10")  # of AffectNet: none, uncertain, no face
CK_PLUS_SEQUENCES = "cohn-kanade-images"
_CK_PLUS_FRAME = re.compile(r"(S\d+)_\d+_\d+\.\w+")
_JAFFE_NAME = re.compile(r"([A-Z]{2})\.(AN|DI|FE|HA|NE|SA|SU)\d*\.\d+\.\w+")
# Top comes before left, and right before bottom.
EXPW_COLUMNS = ("image", "face_id", "top", "left", "right", "bottom", "confidence", "label")


def _raf_db_rows(path: Path) -> Rows:
    for where, row in read_rows(path / RAF_DB_LIST, ("name", "label")):
        stem = Path(row["name"]).stem
        split = stem.partition("_")[0]
        if split not in ("train", "test"):
            raise ValueError(
                f"{where}: name: expected train_ or test_ and a number, got {stem}; {REMEDY}"
            )
        class_name = numbered_class("raf-db", row["label"], where)
        yield ListedFace(f"Image/aligned/{stem}_aligned.jpg", class_name, split)


def _load_raf_db_copy(path: Path) -> FaceDataset:
    """A copy with `train_labels.csv` and `test_labels.csv` beside `DATASET/{train,test}`.

    Files are flat or in folders of their class. Where folder and table differ, the folder counts,
    and the table's class is in `other_labels`. Numbers other than 1 to 7 stay numbers: they have no
    fixed meaning.
    """
    return list_faces(check_symlink(_raf_db_images(path), path), _raf_db_copy_rows)


def _raf_db_images(path: Path) -> Path:
    return path / "DATASET" if (path / "DATASET").is_dir() else path


def _raf_db_tables(images: Path) -> dict[Path, Path]:
    """The table of each folder of a split."""
    places = (images, images.parent) if images.name == "DATASET" else (images,)
    return {
        folder: table
        for folder in sorted(images.glob("*/"))
        for place in places
        if (table := place / f"{folder.name.removesuffix('_set')}_labels.csv").is_file()
    }


def _raf_db_copy_rows(images: Path) -> Rows:
    faces = []
    for folder, table in _raf_db_tables(images).items():
        # Within the folder, by name.
        files = {file.name: file.relative_to(images).as_posix() for file in folder.rglob("*.*")}
        for where, row in read_rows(table, ("image", "label")):
            name, label = row["image"], str(whole_number(row["label"], where, "label"))
            file = files.get(name, f"{folder.name}/{name}")
            split = split_of(folder.name) or ""
            if split == "val" and name.startswith("test_"):
                split = "test"  # RAF-DB has no val: a copy calls its test so
            parts = file.split("/")
            own = parts[1] if len(parts) == 3 else label
            faces.append(ListedFace(file, own, split, other_class=label))
    own_names = _raf_db_names({face.class_name for face in faces})
    table_names = _raf_db_names({face.other_class for face in faces})
    for face in faces:
        own, other = own_names[face.class_name], table_names[face.other_class]
        # Other numbers in the table than in the folders are no other classes.
        differs = own != other and own_names.keys() == table_names.keys()
        yield face._replace(class_name=own, other_class=other if differs else "")


def _raf_db_names(labels: set[str]) -> dict[str, str]:
    """RAF-DB's names of 1 to 7. Labels without a 7 are kept: they may be numbers from 0."""
    numbers = {str(number): name for number, name in SCHEMES["raf-db"].items()}
    if "7" in labels and labels <= numbers.keys():
        return numbers
    return {label: label for label in labels}


def _affectnet_array_rows(path: Path) -> Rows:
    """`{train,val}_set/images/N.jpg` with the class in `annotations/N_exp.npy`."""
    files = sorted(path.glob(AFFECTNET_ARRAYS))
    with PrefetchPool() as pool:
        for file, number in zip(files, pool.map(_read_number, files, Path), strict=True):
            folder = file.parts[-3]
            image = f"{folder}/images/{file.name.removesuffix('_exp.npy')}.jpg"
            split = "train" if folder == "train_set" else "test"
            yield _affectnet_face(image, number, str(file), split)


def _read_number(file: Path) -> str:
    """The number in an array without dimensions, which is a number or a text."""
    with explain_read_error(file, "cannot be read as an array of one number", REMEDY):
        return str(np.load(file).item()).removesuffix(".0")


def _affectnet_face(
    file: str, number: str, where: str, split: str, box: tuple[int, int, int, int] = WHOLE
) -> ListedFace | Skipped:
    if number in _NO_EXPRESSION:
        return Skipped(file, NO_EXPRESSION)
    return ListedFace(file, numbered_class("affectnet", number, where), split, box=box)


def _affectnet_tables(path: Path) -> list[Path]:
    """The CSV tables of a folder with `Manually_Annotated_Images`, beside it or in their own."""
    if not (path / AFFECTNET_IMAGES).is_dir():
        return []
    names = [pattern for name in AFFECTNET_TABLES for pattern in (name, f"*/{name}")]
    return [table for name in names for table in path.glob(name)]


def _affectnet_table_rows(path: Path) -> Rows:
    """The faces, cut out by their boxes."""
    for table in _affectnet_tables(path):
        for where, row in read_rows(table, AFFECTNET_COLUMNS):
            # A few rows have NULL or a negative size.
            left, top, width, height = (
                whole_number(row[name].replace("NULL", "0"), where, name) for name in AFFECTNET_BOX
            )
            yield _affectnet_face(
                f"{AFFECTNET_IMAGES}/{row['subdirectory_filepath']}",
                row["expression"].strip(),
                where,
                AFFECTNET_TABLES[table.name],
                (left, top, left + width, top + height),
            )


def _has_affectnet_folders(path: Path) -> bool:
    table = path / "labels.csv"
    if not table.is_file():
        return False
    with table.open("rb") as file:
        return b"pth,label" in file.readline(100)


def _affectnet_folder_rows(path: Path) -> Rows:
    """The copy in class folders, without splits: the folder is the class.

    A class that differs in `labels.csv` is in `other_labels`.
    """
    for _, row in read_rows(path / "labels.csv", ("pth", "label")):
        folder = row["pth"].partition("/")[0]
        differs = emotion_of(folder) != emotion_of(row["label"])
        yield ListedFace(row["pth"], folder, other_class=row["label"] if differs else "")


def _ck_plus_rows(path: Path) -> Rows:
    """The last frame of each labelled sequence `Sxxx/yyy`: that one has the label.

    A sequence without a label is not neutral: it is skipped.
    """
    # A label whose pictures are missing is in the second tree only.
    trees = (path.glob(f"{tree}/S*/[!.]*/") for tree in (CK_PLUS_SEQUENCES, "Emotion"))
    for subject, name in sorted({folder.parts[-2:] for folder in chain(*trees)}):
        folder = f"{CK_PLUS_SEQUENCES}/{subject}/{name}"
        labels = next(path.glob(f"Emotion/{subject}/{name}/[!.]*_emotion.txt"), None)
        if labels is None:
            yield Skipped(folder, NO_LABEL)
            continue
        with explain_read_error(labels, "cannot be read as a number", "unpack the set again"):
            number = str(float(labels.read_text()))  # 3.0000000e+00
        class_name = numbered_class("ck+", number, str(labels))
        file = f"{folder}/{labels.stem.removesuffix('_emotion')}.png"
        yield ListedFace(file, class_name, subject=subject)


def _load_ck_48(path: Path) -> FaceDataset:
    """CK+48: the last three frames of each labelled sequence, in class folders."""
    faces = load_face_folder(path)
    frames = (_CK_PLUS_FRAME.fullmatch(image.rpartition("/")[2]) for image in faces.paths)
    return replace(faces, subjects=np.array([frame[1] if frame else "" for frame in frames]))


def _jaffe_rows(path: Path) -> Rows:
    """`KA.AN1.39.tiff`, the subject, the emotion and a number, in one folder or by class."""
    for file in sorted(path.rglob("*.*.*.*")):
        if name := _JAFFE_NAME.fullmatch(file.name):
            image = file.relative_to(path).as_posix()
            split = split_of(image.partition("/")[0]) or ""  # where somebody made splits
            yield ListedFace(image, name[2], split, subject=name[1])


def _expw_tables(path: Path) -> Iterator[Path]:
    return chain(path.glob("label/label.lst"), path.glob("label.lst"))


def _expw_rows(path: Path) -> Rows:
    """One row per face, with its box in a photograph of several people."""
    folder = next((f for f in ("image/origin", "origin") if (path / f).is_dir()), "image")
    for where, row in read_rows(next(_expw_tables(path)), EXPW_COLUMNS):
        sides = ("left", "top", "right", "bottom")
        left, top, right, bottom = (whole_number(row[name], where, name) for name in sides)
        class_name = numbered_class("expw", row["label"], where)
        yield ListedFace(f"{folder}/{row['image']}", class_name, box=(left, top, right, bottom))


def _fer_plus_rows(path: Path) -> Rows:
    """The faces with a majority of votes for one of the eight emotions, see `majority_labels`."""
    votes = [name.lower() for name in VOTE_COLUMNS]
    splits = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}
    for folder, split in splits.items():
        for table in path.glob(f"{folder}/label.csv"):
            # Without a header, with or without the box, which is the whole picture.
            rows = list(read_rows(table, votes, ["name", *votes], ["name", "box", *votes]))
            labels = majority_labels(count_votes(rows), EIGHT_EMOTIONS)
            for (_, row), label in zip(rows, labels, strict=True):
                file = f"{folder}/{next(iter(row.values()))}"
                if label < 0:
                    yield Skipped(file, NO_CLEAR_VOTE)
                else:
                    yield ListedFace(file, EIGHT_EMOTIONS[label], split)


# A test of a folder, and the reader of all faces of the sets that pass it.
PUBLISHED = (
    (lambda path: (path / RAF_DB_LIST).is_file(), partial(list_faces, read=_raf_db_rows)),
    (lambda path: _raf_db_tables(_raf_db_images(path)), _load_raf_db_copy),
    (
        lambda path: any(path.glob(AFFECTNET_ARRAYS)),
        partial(list_faces, read=_affectnet_array_rows),
    ),
    (_has_affectnet_folders, partial(list_faces, read=_affectnet_folder_rows)),
    (_affectnet_tables, partial(list_faces, read=_affectnet_table_rows)),
    (
        lambda path: (path / CK_PLUS_SEQUENCES).is_dir(),
        # Not the frames before the last.
        partial(list_faces, read=_ck_plus_rows, list_others=False),
    ),
    (lambda path: has_names(path, _CK_PLUS_FRAME), _load_ck_48),
    (lambda path: has_names(path, _JAFFE_NAME), partial(list_faces, read=_jaffe_rows)),
    (lambda path: any(_expw_tables(path)), partial(list_faces, read=_expw_rows)),
    (lambda path: any(path.glob("FER2013*/label.csv")), partial(list_faces, read=_fer_plus_rows)),
)
