"""What is wrong with a set of faces before anything is trained on it: unreadable files and duplicates.

A face in two splits leaks the answer into the test; one face with two labels caps what any model can reach.
"""

import hashlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from fervit_lib.datasets.faces import FaceDataset
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.progress import progress

THUMBNAIL = 16  # side in pixels
NEAR_THRESHOLD = 0.995
MIN_STD = 2.0  # grey levels of 255; flatter thumbnails are noise or a gradient, and resemble each other by chance
DIRECTIONS = (
    8  # of a thumbnail, in which near ones are looked for: those in which thumbnails differ most
)
BLOCK = 2048  # thumbnails whose near ones are looked for at once


@dataclass(frozen=True, eq=False)
class Audit:
    """What `audit_faces` found.

    counts: images by class (rows) and split (columns), and their total; unreadable files are counted too.
    unreadable: split, path, error.
    duplicates: one row per image that has a duplicate: group, kind, split, index, path, label (name). The kind is
        `exact` where another image of the group has the same pixels, `near` where others only look the same.
    """

    counts: pd.DataFrame
    unreadable: pd.DataFrame
    duplicates: pd.DataFrame

    @property
    def cross_split(self) -> pd.DataFrame:
        """The rows of `duplicates` whose group has images in more than one split."""
        return self._groups_with_several("split")

    @property
    def contradicting(self) -> pd.DataFrame:
        """The rows of `duplicates` whose group has more than one label."""
        return self._groups_with_several("label")

    def _groups_with_several(self, column: str) -> pd.DataFrame:
        return self.duplicates[self.duplicates.groupby("group")[column].transform("nunique") > 1]

    def summary(self) -> pd.DataFrame:
        """The figures of the audit as a table of one column, `number`."""
        groups = self.duplicates["group"].nunique()
        exact = self.duplicates.loc[self.duplicates["kind"] == "exact", "group"].nunique()
        numbers = {
            "images": int(self.counts["total"].sum()),
            "unreadable images": len(self.unreadable),
            "images with a duplicate": len(self.duplicates),
            "groups with exact duplicates": exact,
            "groups with near duplicates only": groups - exact,
            "groups across splits": self.cross_split["group"].nunique(),
            "groups with contradicting labels": self.contradicting["group"].nunique(),
        }
        return pd.DataFrame({"number": numbers}).rename_axis("finding")

    def clean(
        self, datasets: dict[str, FaceDataset], drop_cross_split_duplicates: bool
    ) -> dict[str, FaceDataset]:
        """The sets without unreadable images and, if asked, without leaks.

        Leaks: train loses the images that occur, exactly or nearly, in any other split, and val those that occur in
        any but train. No other split loses a readable image, so figures on test stay comparable.

        Args:
            datasets: the audited sets, or parts of them, by split.
        """
        cleaned = {}
        for split, faces in datasets.items():
            dropped = set(self.unreadable.loc[self.unreadable["split"] == split, "path"])
            if drop_cross_split_duplicates and split in ("train", "val"):
                rows = self.duplicates
                elsewhere = rows.loc[~rows["split"].isin(["train", split]), "group"]
                dropped |= set(
                    rows.loc[(rows["split"] == split) & rows["group"].isin(elsewhere), "path"]
                )
            cleaned[split] = faces.subset(
                [i for i, path in enumerate(faces.paths) if path not in dropped]
            )
        return cleaned


def audit_faces(datasets: dict[str, FaceDataset], near_threshold: float = NEAR_THRESHOLD) -> Audit:
    """Read every image once; count, list what cannot be read, and group what occurs more than once.

    Images are exact duplicates if they decode to the same pixels. They are near duplicates if the cosine similarity of
    their 16×16 grey thumbnails, less their mean, reaches `near_threshold`: other compression, brightness or contrast
    passes, another expression does not. Duplicates of duplicates are in one group.

    Args:
        datasets: sets of the same classes, by split.
        near_threshold: in (0, 1]; smaller finds more, and more that is not the same.

    Raises:
        ValueError: no sets, sets of different classes, or a threshold out of range.
        TimeoutError: a file hangs.
    """
    if len({faces.classes for faces in datasets.values()}) != 1:
        found = {split: faces.classes for split, faces in datasets.items()}
        raise ValueError(
            f"datasets: expected sets of the same classes, got {found}; load all from one source"
        )
    if not 0 < near_threshold <= 1:
        raise ValueError(f"near_threshold: expected a similarity in (0, 1], got {near_threshold}")
    rows: list[tuple] = []
    hashes: list[bytes] = []
    unreadable: list[tuple] = []
    total = sum(map(len, datasets.values()))
    thumbnails = np.empty((total, THUMBNAIL**2), np.float32)
    with PrefetchPool() as pool, progress(total=total, desc="audit", unit=" faces") as bar:
        for split, faces in datasets.items():
            looked_at = pool.map(partial(_look_at, faces), range(len(faces)), faces.file)
            for index, (path, seen) in enumerate(zip(faces.paths, looked_at, strict=True)):
                if isinstance(seen, OSError):
                    unreadable.append((split, path, str(seen)))
                else:
                    thumbnails[len(rows)] = seen[1]
                    hashes.append(seen[0])
                    rows.append((split, index, path, faces.classes[faces.labels[index]]))
                bar.update()
    duplicates = _group_duplicates(rows, hashes, thumbnails[: len(rows)], near_threshold)
    return Audit(
        _count(datasets), pd.DataFrame(unreadable, columns=["split", "path", "error"]), duplicates
    )


def _look_at(faces: FaceDataset, index: int) -> tuple[bytes, np.ndarray] | OSError:
    """Hash of the pixels and thumbnail; or why the face cannot be read."""
    try:
        image, _ = faces[index]
    except OSError as error:
        return error
    return _pixel_hash(image), _thumbnail(image)


def _count(datasets: dict[str, FaceDataset]) -> pd.DataFrame:
    classes = next(iter(datasets.values())).classes
    counts = {
        split: np.bincount(faces.labels, minlength=len(classes))
        for split, faces in datasets.items()
    }
    table = pd.DataFrame(counts, index=pd.Index(classes, name="class"))
    return table.assign(total=table.sum(axis=1))


def _pixel_hash(image: Image.Image) -> bytes:
    return hashlib.blake2b(
        f"{image.mode} {image.size} ".encode() + image.tobytes(), digest_size=16
    ).digest()


def _thumbnail(image: Image.Image) -> np.ndarray:
    """(256,) float32 grey levels; averaged as floats, since rounding would add noise to flat images."""
    grey = image.convert("L").convert("F").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(grey, np.float32).ravel()


def _group_duplicates(
    rows: list[tuple], hashes: list[bytes], thumbnails: np.ndarray, near_threshold: float
) -> pd.DataFrame:
    """The table `Audit.duplicates`; groups are numbered from 0 in the order of their first image."""
    table = pd.DataFrame(rows, columns=["split", "index", "path", "label"])
    if table.empty:
        return table.assign(group=0, kind="")[["group", "kind", "split", "index", "path", "label"]]
    content, unique = pd.factorize(
        pd.Series(hashes)
    )  # images of equal pixels have one content number
    first = np.unique(content, return_index=True)[1]
    pairs = near_pairs(torch.from_numpy(thumbnails[first]), near_threshold)
    graph = coo_array(
        (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(unique), len(unique))
    )
    group = connected_components(graph, directed=False)[1][content]
    same_pixels, same_group = np.bincount(content)[content], np.bincount(group)[group]
    table.insert(0, "group", group)
    table.insert(1, "kind", np.where(same_pixels > 1, "exact", "near"))
    table = table[same_group > 1]
    table["group"] = pd.factorize(table["group"])[0]
    return table.sort_values("group", kind="stable", ignore_index=True)


def near_pairs(thumbnails: Tensor, threshold: float) -> np.ndarray:
    """Pairs of thumbnails that look the same.

    Unit vectors whose cosine is at least t are no further apart than sqrt(2 - 2t), along any few directions, too: only
    thumbnails that are so near along those in which all differ most are compared. Comparing each with each would take
    the square of their number.

    Args:
        thumbnails: (N, D) float32 grey levels, 0 to 255.
        threshold: the smallest cosine similarity, after each thumbnail's mean is taken off.

    Returns:
        (P, 2) int64 indices i < j. Flat thumbnails (standard deviation below 2 grey levels) are in no pair.
    """
    centred = thumbnails - thumbnails.mean(1, keepdim=True)
    textured = (centred.square().mean(1).sqrt() >= MIN_STD).nonzero()[:, 0]
    unit = torch.nn.functional.normalize(centred[textured], dim=1)
    directions = torch.linalg.eigh(unit.T @ unit).eigenvectors[:, -DIRECTIONS:]
    places = (unit @ directions).numpy()
    tree, reach = (
        KDTree(places),
        (2 - 2 * threshold) ** 0.5 + 1e-4,
    )  # more than rounding moves a place
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(unit), BLOCK):
        near = tree.query_ball_point(places[start : start + BLOCK], reach)
        i = start + np.repeat(np.arange(len(near)), [len(found) for found in near])
        j = np.concatenate(near).astype(np.int64)
        candidates = torch.from_numpy(np.stack([i, j], 1)[i < j])
        for part in candidates.split(BLOCK):
            alike = (unit[part[:, 0]] * unit[part[:, 1]]).sum(1) >= threshold
            pairs.append(textured[part[alike]].numpy())
    return np.concatenate(pairs)
