"""Faces in folders: `{train,val,test}/{class}/*`."""

from pathlib import Path

import numpy as np

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.image_files import SUFFIXES
from fervit_lib.datasets.skipped import HIDDEN, NOT_A_FILE, UNKNOWN_SUFFIX, Skipped
from fervit_lib.datasets.splits import PRIVATE_TEST, part_of_train
from fervit_lib.datasets.toy_set import MARKER
from fervit_lib.system.errors import check_symlink


def load_face_folder(root: Path, split: str) -> FaceDataset:
    """One split of `root`. Classes are the folders of train, in alphabetical order.

    Without a val folder a fixed eighth of train is val.

    Raises:
        ValueError: no such split, a class without images, a class that train does not have, or a
            symbolic link that leads out of `root`.
    """
    if not (root / "train").is_dir():
        raise ValueError(
            f"{root}: no folder 'train' in it, found {sorted(p.name for p in root.iterdir())[:5]}; "
            f"expected {{train,val,test}}/{{class}}/ with images; if the faces are in a CSV file, "
            f"give that file"
        )
    classes = _subfolders(check_symlink(root / "train", root), root)
    if not classes:
        raise ValueError(f"{root / 'train'}: no class folders in it, expected one for each class")
    if split in ("train", "val") and not (root / "val").is_dir():
        return part_of_train(list_images(root, "train", classes), split)
    return list_images(root, split, classes)


def list_images(root: Path, split: str, classes: tuple[str, ...]) -> FaceDataset:
    """The images in the folder of a split, and the files there that are skipped. Opens no image."""
    folder = check_symlink(root / split, root)
    if not folder.is_dir():
        remedy = f"add {split}/{{class}}/ with images"
        if split == PRIVATE_TEST:
            remedy = "only Kaggle's tables have it"
        raise ValueError(f"split: {root} has no folder {split!r}; {remedy}")
    if unknown := set(_subfolders(folder, root)) - set(classes):
        raise ValueError(
            f"{folder}: class folders {sorted(unknown)[:5]} are not in train, which has "
            f"{', '.join(classes)}; rename or remove them"
        )
    paths = []
    labels = []
    skipped = []
    for label, name in enumerate(classes):
        # Sorted, because the order of a file system differs between machines, and with it the
        # shards and every random part of the set.
        for file in sorted((folder / name).glob("*")):
            path = f"{split}/{name}/{file.name}"
            if reason := _skip_reason(file):
                skipped.append(Skipped(path, reason))
                continue
            check_symlink(file, root)
            paths.append(path)
            labels.append(label)
        if label not in labels:
            raise ValueError(
                f"{folder / name}: expected images of class {name!r} "
                f"({', '.join(SUFFIXES)}), found none; add some, or remove the class from "
                f"every split"
            )
    synthetic = (root / MARKER).is_file()
    return FaceDataset(
        classes, np.array(labels, np.int64), tuple(paths), root, synthetic, skipped=tuple(skipped)
    )


def _skip_reason(file: Path) -> str:
    """Why a file in a class folder is skipped; empty if it is not."""
    if file.name.startswith("."):
        return HIDDEN
    if file.suffix.lower() not in SUFFIXES:
        return UNKNOWN_SUFFIX
    if not file.is_file():  # opening a pipe would wait for ever
        return NOT_A_FILE
    return ""


def _subfolders(folder: Path, root: Path) -> tuple[str, ...]:
    folders = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return tuple(sorted(check_symlink(p, root).name for p in folders))
