"""Labelled faces from folders or from Kaggle's FER2013 tables, as one `FaceDataset`.

Folders: `{train,val,test}/{class}/*`. Tables: `fer2013.csv` and `icml_face_data.csv`, plain or packed. Where a set has
no validation split, a stratified eighth of the training images becomes one, the same eighth whenever it is asked for.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from fervit_lib.datasets.action_units import EMOTIONS
from fervit_lib.datasets.fer_plus import majority, vote_shares, votes_on
from fervit_lib.datasets.kaggle_tables import PRIVATE_TEST, SIDE, USAGES, read_table, shorten
from fervit_lib.datasets.toy_set import MARKER
from fervit_lib.system.errors import check_image_size, check_symlink, explain_read_error
from fervit_lib.system.prefetch import PrefetchPool

SPLITS = ("train", "val", "test")
LABELS = ("hard", "majority", "soft")
VAL_FRACTION = 1 / 8
VAL_SEED = 2013  # fixed: a validation image must never become a training image in another run

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True, eq=False)
class FaceDataset:
    """Faces with labels: `[i]` → (PIL image in mode L or RGB, int label, or (C,) shares of votes where there are any).

    Images of a folder are opened one by one, and read ahead where the set is gone through.
    """

    classes: tuple[str, ...]
    labels: np.ndarray  # (N,) int64, positions in `classes`
    paths: tuple[
        str, ...
    ]  # who an image is: `train/happy/1.jpg` within `source`, or `fer2013.csv:7`, 7 its line
    source: Path  # the folder of the splits, or the table
    synthetic: bool = False  # drawn by code: the marker SYNTHETIC.json lies beside the splits
    pixels: np.ndarray | None = None  # (N, 48, 48) uint8 grey of a table; None for a folder
    shares: np.ndarray | None = (
        None  # (N, C) float32 shares of votes; None where a face has one label
    )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int | np.ndarray]:
        """Raises OSError that names the file where it is missing, truncated or no image."""
        image = (
            _open_image(self.file(index))
            if self.pixels is None
            else Image.fromarray(self.pixels[index])
        )
        return image, int(self.labels[index]) if self.shares is None else self.shares[index]

    def __iter__(self) -> Iterator[tuple[Image.Image, int | np.ndarray]]:
        """Raises as `[i]`, and TimeoutError where a file hangs."""
        with PrefetchPool() as pool:
            yield from pool.map(self.__getitem__, range(len(self)), self.file)

    def file(self, index: int) -> Path:
        """The file that a face is in."""
        return self.source / self.paths[index] if self.pixels is None else self.source

    def subset(self, indices: Any) -> Self:
        """The faces at `indices` (integers, a boolean mask or a slice), in that order."""
        chosen = indices if isinstance(indices, slice) else np.arange(len(self))[indices]
        paths = (
            self.paths[chosen]
            if isinstance(chosen, slice)
            else tuple(self.paths[i] for i in chosen)
        )
        pixels = None if self.pixels is None else self.pixels[chosen]
        shares = None if self.shares is None else self.shares[chosen]
        return replace(self, labels=self.labels[chosen], paths=paths, pixels=pixels, shares=shares)

    def joined(self, other: Self) -> Self:
        """These faces, and then those of another split of the same source."""

        def both(ours: np.ndarray | None, theirs: np.ndarray | None) -> np.ndarray | None:
            return None if ours is None or theirs is None else np.concatenate([ours, theirs])

        return replace(
            self,
            labels=np.concatenate([self.labels, other.labels]),
            paths=self.paths + other.paths,
            pixels=both(self.pixels, other.pixels),
            shares=both(self.shares, other.shares),
        )

    def stratified(self, fraction: float, seed: int) -> Self:
        """A random part with the same share of every class, at least one face of each.

        With one seed a smaller part lies within every larger one, so that a learning curve adds faces and swaps none.

        Raises:
            ValueError: `fraction` is not in (0, 1].
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: expected a share in (0, 1], got {fraction}")
        return self.subset(stratified_mask(self.labels, fraction, seed))


def stratified_mask(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """(N,) bool: a random `fraction` of every class that occurs in `labels` (N,), rounded, at least one.

    With one seed a smaller part lies within every larger one.
    """
    return _first_of_each(labels, lambda n: int(fraction * n + 0.5), seed)


def few_shot_mask(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """(N,) bool: `shots` random members of every class that occurs in `labels` (N,), nested as `stratified_mask`.

    Raises:
        ValueError: a class has fewer.
    """
    fewest = np.bincount(labels)[np.unique(labels)].min()
    if not 1 <= shots <= fewest:
        raise ValueError(
            f"shots: expected 1 to {fewest}, the faces of the smallest class, got {shots}"
        )
    return _first_of_each(labels, lambda n: shots, seed)


def _first_of_each(labels: np.ndarray, count: Callable[[int], int], seed: int) -> np.ndarray:
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[
            np.random.default_rng((seed, label)).permutation(members)[: max(1, count(len(members)))]
        ] = True
    return mask


def move_to_train(
    sets: Mapping[str, FaceDataset], share: float, seed: int
) -> dict[str, FaceDataset]:
    """The splits with a stratified `share` of val's faces, in [0, 1), in train instead; val keeps the others.

    Raises:
        ValueError: `share` is out of range, or so large that val would lose a class.
    """
    if not 0 <= share < 1:
        raise ValueError(f"val_to_train: expected a share in [0, 1), got {share}")
    if not share:
        return dict(sets)
    train, val = sets["train"], sets["val"]
    moved = stratified_mask(val.labels, share, seed)
    if lost := set(val.labels) - set(val.labels[~moved]):
        raise ValueError(
            f"val_to_train: {share} leaves no face of {val.classes[min(lost)]} in val, which is there to pick the best "
            f"epoch; take a smaller share"
        )
    return {**sets, "train": train.joined(val.subset(moved)), "val": val.subset(~moved)}


def load_faces(path: Path | str, split: str, labels: str = "hard") -> FaceDataset:
    """Load one split of a set of faces.

    Args:
        path: a folder `{train,val,test}/{class}/*` (jpg, jpeg, png, bmp, webp), whose classes are the folders of train
            in alphabetical order; or Kaggle's `fer2013.csv` or `icml_face_data.csv`, plain or as .gz, .xz, .zip,
            .tar.gz, whose classes are `EMOTIONS`.
        split: train, val or test; of a table also private_test. Tables: Training is train and val, PublicTest is
            test, PrivateTest is private_test.
        labels: hard, one class per face as the set has it; or, by FER+'s votes beside the faces, majority (one class)
            or soft (`[i]` gives shares of the votes); faces without a verdict are left out, see `fer_plus`.

    Raises:
        FileNotFoundError: `path` is not there.
        ValueError: the split is unknown or not in this set, a class has no image in it, or a row of the table is
            damaged. A damaged image file is no error here: `audit_faces` finds it.
    """
    path = Path(path)
    if labels not in LABELS:
        raise ValueError(f"labels: expected one of {', '.join(LABELS)}, got {labels!r}")
    if split not in USAGES:
        raise ValueError(f"split: expected one of {', '.join(USAGES)}, got {split!r}")
    if not (path.is_dir() or path.is_file()):  # but a pipe, which would be waited for
        raise FileNotFoundError(
            f"{path}: no such file or folder; give a folder with {{train,val,test}}/{{class}}/ or Kaggle's fer2013.csv"
        )
    if path.is_dir():
        faces = _load_folder(path, split)
    else:
        faces = _load_table(path, USAGES[split])
        faces = _part_of_train(faces, split) if USAGES[split] == "Training" else faces
    return faces if labels == "hard" else _relabel(faces, labels)


def _relabel(faces: FaceDataset, labels: str) -> FaceDataset:
    votes = votes_on(faces.source, faces.paths)
    if labels == "majority":
        numbers = majority(votes, faces.classes)
        return replace(faces, labels=numbers.astype(np.int64)).subset(numbers >= 0)
    shares = vote_shares(votes, faces.classes).astype(np.float32)
    return replace(faces, labels=shares.argmax(1).astype(np.int64), shares=shares).subset(
        shares.any(1)
    )


def _open_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            check_image_size(image).load()
    except (
        Exception
    ) as error:  # on broken bytes Pillow raises anything from SyntaxError to struct.error
        raise OSError(f"{path}: cannot be read as an image ({error})") from error
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode in ("1", "LA", "I;16") else "RGB")


def _part_of_train(faces: FaceDataset, split: str) -> FaceDataset:
    """Train or val, of a set that has all its training images in one place."""
    counts = np.bincount(faces.labels, minlength=len(faces.classes))
    if counts.min() < 2:
        raise ValueError(
            f"{faces.source}: class {faces.classes[counts.argmin()]!r} has {counts.min()} training image, expected at "
            f"least 2, since the set has no val split and a part of train becomes one; add images or a val folder"
        )
    in_val = stratified_mask(faces.labels, VAL_FRACTION, VAL_SEED)
    return faces.subset(in_val if split == "val" else ~in_val)


def _folders(path: Path) -> tuple[str, ...]:
    folders = (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return tuple(sorted(check_symlink(p, path.parent).name for p in folders))


def _load_folder(root: Path, split: str) -> FaceDataset:
    if not (root / "train").is_dir():
        raise ValueError(
            f"{root}: no folder 'train' in it, found {shorten(p.name for p in root.iterdir())}; expected "
            f"{{train,val,test}}/{{class}}/ with images; if the faces are in a CSV file, give that file"
        )
    for name in {"train", split} & set(USAGES):
        check_symlink(root / name, root)
    classes = _folders(root / "train")
    if not classes:
        raise ValueError(
            f"{root / 'train'}: no class folders in it; expected one folder of images for each class"
        )
    if split == "val" and not (root / "val").is_dir():
        return _part_of_train(_list_images(root, "train", classes), split)
    if not (root / split).is_dir():
        remedy = (
            "only Kaggle's CSV files have it"
            if split == PRIVATE_TEST
            else f"add {split}/{{class}}/ with images"
        )
        raise ValueError(f"split {split!r}: {root} has no folder of that name; {remedy}")
    faces = _list_images(root, split, classes)
    return (
        _part_of_train(faces, split) if split == "train" and not (root / "val").is_dir() else faces
    )


def _list_images(root: Path, split: str, classes: tuple[str, ...]) -> FaceDataset:
    """Names and labels of the images of a split; no image is opened."""
    found = _folders(root / split)
    if unknown := set(found) - set(classes):
        raise ValueError(
            f"{root / split}: class folder {shorten(unknown)} is not in train, which has {', '.join(classes)}; "
            f"rename or remove it"
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        folder = root / split / name
        files = (
            sorted(check_symlink(p, root).name for p in folder.iterdir() if _is_image(p))
            if name in found
            else []
        )
        if not files:
            raise ValueError(
                f"{folder}: expected images of class {name!r} ({', '.join(sorted(SUFFIXES))}), found none; add some, "
                f"or remove the class from every split"
            )
        paths += [f"{split}/{name}/{file}" for file in files]
        labels += [label] * len(files)
    return FaceDataset(
        classes, np.array(labels, np.int64), tuple(paths), root, (root / MARKER).is_file()
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _load_table(path: Path, usage: str) -> FaceDataset:
    """All rows of one usage."""
    with explain_read_error(
        path, "cannot be read as a CSV file", "expected Kaggle's fer2013.csv; download it again"
    ):
        emotions, pixels, paths = read_table(path, usage)
    missing = set(EMOTIONS) - set(emotions)
    if missing:
        raise ValueError(
            f"{path}: no row with Usage {usage!r} of class {shorten(missing)}; expected all of {', '.join(EMOTIONS)}; "
            f"download the whole file, or use folders for a set with fewer classes"
        )
    labels = np.array([EMOTIONS.index(emotion) for emotion in emotions], np.int64)
    images = np.stack(pixels).reshape(-1, SIDE, SIDE)
    return FaceDataset(
        EMOTIONS, labels, tuple(paths), path, (path.parent / MARKER).is_file(), images
    )
