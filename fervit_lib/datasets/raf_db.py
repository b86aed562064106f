"""RAF-DB: `EmoLabel/list_patition_label.txt` with `Image/aligned`, and the copies of it.

Source: Li et al. 2017, *Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression
Recognition in the Wild*. Train and test are published; there is no val.
"""

from collections.abc import Iterator
from pathlib import Path

from fervit_lib.datasets.class_names import SCHEMES
from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.listed_faces import (
    REMEDY,
    ListedFace,
    list_faces,
    numbered_class,
    read_rows,
    whole_number,
)
from fervit_lib.datasets.splits import split_of
from fervit_lib.system.errors import check_symlink

LIST = "EmoLabel/list_patition_label.txt"  # sic


def is_raf_db(path: Path) -> bool:
    return (path / LIST).is_file() or bool(_tables(_images(path)))


def load_raf_db(path: Path) -> FaceDataset:
    """All faces, with their published splits.

    A copy has `train_labels.csv` and `test_labels.csv` beside `DATASET/{train,test}`, whose files
    are flat or in folders of their class. Where folder and table differ, the folder counts, and the
    table's class is in `other_labels`. Numbers other than 1 to 7 stay numbers: they have no fixed
    meaning.
    """
    if (path / LIST).is_file():
        return list_faces(path, _published_rows(path))
    images = check_symlink(_images(path), path)
    return list_faces(images, _copied_rows(images))


def _images(path: Path) -> Path:
    return path / "DATASET" if (path / "DATASET").is_dir() else path


def _published_rows(path: Path) -> Iterator[ListedFace]:
    for where, row in read_rows(path / LIST, ("name", "label")):
        stem = Path(row["name"]).stem
        split = stem.partition("_")[0]
        if split not in ("train", "test"):
            raise ValueError(
                f"{where}: name: expected train_ or test_ and a number, got {stem}; {REMEDY}"
            )
        class_name = numbered_class("raf-db", row["label"], where)
        yield ListedFace(f"Image/aligned/{stem}_aligned.jpg", class_name, split)


def _tables(images: Path) -> dict[Path, Path]:
    """The table of each folder of a split."""
    places = (images, images.parent) if images.name == "DATASET" else (images,)
    return {
        folder: table
        for folder in sorted(images.glob("*/"))
        for place in places
        if (table := place / f"{folder.name.removesuffix('_set')}_labels.csv").is_file()
    }


def _copied_rows(images: Path) -> Iterator[ListedFace]:
    faces = []
    for folder, table in _tables(images).items():
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
    own_names = _names({face.class_name for face in faces})
    table_names = _names({face.other_class for face in faces})
    for face in faces:
        own, other = own_names[face.class_name], table_names[face.other_class]
        # Other numbers in the table than in the folders are no other classes.
        differs = own != other and own_names.keys() == table_names.keys()
        yield face._replace(class_name=own, other_class=other if differs else "")


def _names(labels: set[str]) -> dict[str, str]:
    """RAF-DB's names of 1 to 7. Labels without a 7 are kept: they may be numbers from 0."""
    numbers = {str(number): name for number, name in SCHEMES["raf-db"].items()}
    if "7" in labels and labels <= numbers.keys():
        return numbers
    return {label: label for label in labels}
