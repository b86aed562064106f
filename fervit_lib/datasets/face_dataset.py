"""Labelled faces of one split, whatever their source, and random parts of labelled sets."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from PIL import Image

from fervit_lib.datasets.image_files import read_image
from fervit_lib.datasets.skipped import Skipped
from fervit_lib.system.names import check_range, check_share
from fervit_lib.system.prefetch import PrefetchPool

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class FaceDataset:
    """Faces with labels: `[i]` → (PIL image in mode L or RGB, int label or (C,) soft label).

    Images of a folder are opened one by one, and read ahead while the set is iterated over.
    """

    classes: tuple[str, ...]
    labels: np.ndarray  # (N,) int64, positions in `classes`
    # Image IDs: `train/happy/1.jpg` within `source`, or `fer2013.csv:7`, line 7 of that table.
    paths: tuple[str, ...]
    source: Path  # the folder of the splits, or the table
    synthetic: bool = False  # drawn by code: SYNTHETIC.json lies beside the splits
    pixels: np.ndarray | None = None  # (N, 48, 48) uint8 grey of a table; None for a folder
    soft_labels: np.ndarray | None = None  # (N, C) float32, rows sum to 1; None for hard labels
    # (N,) str, the split in which the set publishes a face: train, val, test; "" where it has none.
    published: np.ndarray | None = None
    subjects: np.ndarray | None = None  # (N,) str, the person in each face; None: unknown
    # (N, 4) int64, the face in its picture: left, top, right, bottom in pixels; None: all of it.
    boxes: np.ndarray | None = None
    # (N,) str, the class that a second list of the set gives a face, where it is another one.
    other_labels: np.ndarray | None = None
    # (N, 16) uint8, of the content of the faces, by `hash_faces`; None: not computed.
    hashes: np.ndarray | None = None
    skipped: tuple[Skipped, ...] = ()  # faces that were left out of this split, and why

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int | np.ndarray]:
        """Raises OSError, which names the file, where it is missing, truncated or no image."""
        if self.pixels is None:
            image = read_image(self.file(index))
            if self.boxes is not None:
                # The part of the box that is within the picture.
                corners = np.clip(self.boxes[index].reshape(2, 2), 0, image.size)
                if (corners[0] >= corners[1]).any():
                    raise OSError(
                        f"{self.paths[index]}: box: expected a part of {image.size} pixels, got "
                        f"{self.boxes[index].tolist()}"
                    )
                image = image.crop(tuple(corners.ravel().tolist()))
        else:
            image = Image.fromarray(self.pixels[index])
        if self.soft_labels is None:
            return image, int(self.labels[index])
        return image, self.soft_labels[index]

    def __iter__(self) -> Iterator[tuple[Image.Image, int | np.ndarray]]:
        """Raises the errors of `[i]`, and TimeoutError where a file hangs."""
        return self.map(self.__getitem__)

    def map(self, read: Callable[[int], R], num_threads: int | None = None) -> Iterator[R]:
        """`read(i)` of each face in order, called in threads; None: as many as there are cores.

        Raises:
            TimeoutError: a file hangs.
        """
        with PrefetchPool(num_threads) as pool:
            yield from pool.map(read, range(len(self)), self.file)

    def file(self, index: int) -> Path:
        """The file that holds a face."""
        if self.pixels is not None:
            return self.source
        path = self.paths[index]
        # Of several faces in a picture, the second is `image/a.jpg#2`.
        return self.source / (path if self.boxes is None else re.sub(r"#\d+$", "", path))

    def subset(self, indices: Any) -> Self:
        """The faces at `indices` (integers, a boolean mask or a slice), in that order."""
        rows = np.arange(len(self))[indices]
        paths = tuple(self.paths[row] for row in rows)
        arrays = {name: array[rows] for name, array in self._arrays().items()}
        return replace(self, paths=paths, **arrays)

    def _arrays(self) -> dict:
        """The fields that hold one value per face, where there are any."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def without(self, left_out: np.ndarray, reason: str) -> Self:
        """The faces but for those of the mask `left_out` (N,), which are added to `skipped`."""
        added = tuple(Skipped(self.paths[i], reason) for i in np.flatnonzero(left_out))
        return replace(self.subset(~left_out), skipped=self.skipped + added)

    def joined(self, other: Self) -> Self:
        """These faces, followed by those of another split of the same source and labels."""
        arrays: dict = {
            name: np.concatenate([array, getattr(other, name)])
            for name, array in self._arrays().items()
        }
        return replace(self, paths=self.paths + other.paths, **arrays)

    def stratified(self, fraction: float, seed: int) -> Self:
        """A random part with the same share of every class, at least one face of each.

        With the same seed a smaller part is a subset of every larger one, so that a learning curve
        adds faces and replaces none.

        Raises:
            ValueError: `fraction` is not in (0, 1].
        """
        check_share("fraction", fraction)
        return self.subset(stratified_mask(self.labels, fraction, seed))

    def at_most(self, faces: int, seed: int) -> Self:
        """A random part with at most so many faces of every class.

        Raises:
            ValueError: `faces` is less than 1.
        """
        check_range("smoke", faces, 1)
        return self.subset(_mask_per_class(self.labels, lambda n: faces, seed))


def stratified_mask(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """(N,) bool: a random `fraction` of every class of `labels` (N,), rounded, at least one sample.

    With the same seed a smaller part is a subset of every larger one.
    """
    return _mask_per_class(labels, lambda n: max(1, int(fraction * n + 0.5)), seed)


def few_shot_mask(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """(N,) bool: `shots` random samples of every class of `labels` (N,).

    With the same seed a smaller part is a subset of every larger one.

    Raises:
        ValueError: a class has fewer samples than `shots`.
    """
    fewest = np.bincount(labels)[np.unique(labels)].min()
    if not 1 <= shots <= fewest:
        raise ValueError(
            f"shots: expected 1 to {fewest}, the size of the smallest class, got {shots}"
        )
    return _mask_per_class(labels, lambda n: shots, seed)


def _mask_per_class(labels: np.ndarray, count: Callable[[int], int], seed: int) -> np.ndarray:
    """(N,) bool: of a class with n samples, the first `count(n)` in a random order."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # One order per class and seed, of which a smaller part takes fewer: parts are nested.
        order = np.random.default_rng((seed, label)).permutation(members)
        mask[order[: count(len(members))]] = True
    return mask
