"""Faces in folders: `{train,val,test}/{class}/*`, or `{class}/*` for a set without splits."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from fervit_lib.datasets.class_names import emotion_of
from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.image_files import SUFFIXES
from fervit_lib.datasets.listed_faces import ListedFace, list_entries, to_dataset
from fervit_lib.datasets.skipped import (
    HEIC,
    HIDDEN,
    NO_CLASS,
    NO_SPLIT,
    NOT_A_FILE,
    UNKNOWN_SUFFIX,
    Skipped,
)
from fervit_lib.datasets.splits import split_of
from fervit_lib.datasets.toy_set import MARKER


def load_face_folder(root: Path) -> FaceDataset:
    """All images in the class folders of `root`. Opens none.

    `published` is the split whose folder an image is in, by any name that `splits.split_of` knows.
    `subjects` is the folder within the class folder, if there is one: `train/sad/S05/1.png`.

    Raises:
        ValueError: no splits or no classes, or a symbolic link that leads out of `root`.
    """
    folder, within, splits, skipped = _enter(root)
    faces = {}
    for name, split in splits.items():
        start = f"{within}{name}/" if name else within
        for entry in list_entries(folder / name, root):
            if not _is_folder(entry):
                # Beside the classes of a set without splits there are also tables and the like.
                if split or _is_image(entry):
                    reason = HIDDEN if entry.name.startswith(".") else NO_CLASS
                    skipped.append(Skipped(start + entry.name, reason))
                continue
            for path, file in _walk(entry, f"{start}{entry.name}/", root):
                if reason := _skip_reason(file):
                    skipped.append(Skipped(path, reason))
                    continue
                inner = path.removeprefix(f"{start}{entry.name}/").split("/")
                subject = inner[0] if len(inner) > 1 else ""
                faces[path] = ListedFace(path, entry.name, split, subject)
    if not faces:
        raise ValueError(
            f"{folder}: no images in class folders of {', '.join(filter(None, splits)) or 'it'}; "
            f"expected {{class}}/ with images ({', '.join(SUFFIXES)}), or no class folders found"
        )
    synthetic = (root / MARKER).is_file()
    return to_dataset(root, faces, synthetic=synthetic, skipped=tuple(skipped))


def _enter(root: Path) -> tuple[Path, str, dict[str, str], list[Skipped]]:
    """Find the folders of the splits in `root`, or in the only folder in it, such as `archive`.

    Returns:
        The folder that holds them, its image ID with a slash, the split of each of them by name
        ({"": ""}: none, it holds the classes), and what is skipped on the way.
    """
    folder, within = root, ""
    skipped: list[Skipped] = []
    while True:
        entries = list_entries(folder, root)
        names = [entry.name for entry in entries if _is_folder(entry)]
        splits = {name: split for name in names if (split := split_of(name))}
        if not splits and any(emotion_of(name) or name.isdecimal() for name in names):
            return folder, within, {"": ""}, skipped
        enter = splits or dict.fromkeys(names if len(names) == 1 else [])
        for entry in entries:
            if entry.name in enter:
                continue
            if _is_folder(entry):
                files = _walk(entry, f"{within}{entry.name}/", root)
                skipped += [Skipped(path, NO_SPLIT) for path, _ in files]
            elif _is_image(entry) or entry.is_dir():
                reason = HIDDEN if entry.name.startswith(".") else NO_SPLIT
                skipped.append(Skipped(within + entry.name, reason))
        if splits:
            _check_splits(folder, splits)
            return folder, within, splits, skipped
        if not enter:
            inside = [entry.name for entry in entries[:5]]
            raise ValueError(
                f"{folder}: no folder 'train' in it, found {inside}; expected "
                f"{{train,val,test}}/{{class}}/ or {{class}}/ with images, those of a person in "
                f"{{class}}/{{person}}/; if the faces are in a CSV file, give that file"
            )
        folder, within = folder / names[0], f"{within}{names[0]}/"


def _check_splits(folder: Path, splits: dict[str, str]) -> None:
    if "train" not in splits.values():
        raise ValueError(
            f"{folder}: no folder 'train' in it, found {', '.join(splits)}; expected "
            f"{{train,val,test}}/{{class}}/ with images"
        )
    for split in splits.values():
        if len(same := [name for name in splits if splits[name] == split]) > 1:
            raise ValueError(
                f"{folder}: folders {' and '.join(same)} both mean {split}; merge them, or move "
                f"one of them away"
            )


def _walk(folder: os.DirEntry, within: str, root: Path) -> Iterator[tuple[str, os.DirEntry]]:
    """Image ID and entry of every file below `folder`; `within` is its image ID with a slash."""
    for entry in list_entries(folder.path, root):
        # A link to a folder could lead back up, and be followed for ever.
        if _is_folder(entry) and not entry.is_symlink():
            yield from _walk(entry, f"{within}{entry.name}/", root)
        else:
            yield within + entry.name, entry


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _is_image(entry: os.DirEntry) -> bool:
    return PurePath(entry.name).suffix.lower() in SUFFIXES


def _skip_reason(file: os.DirEntry) -> str:
    """Why a file in a class folder is skipped; empty if it is not."""
    if file.name.startswith("."):
        return HIDDEN
    if not file.is_file():  # opening a pipe would wait for ever
        return NOT_A_FILE
    if PurePath(file.name).suffix.lower() in (".heic", ".heif"):
        return HEIC
    if not _is_image(file):
        return UNKNOWN_SUFFIX
    return ""
