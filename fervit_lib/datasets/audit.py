"""What is wrong with a set of faces before training: unreadable files, duplicates, shared subjects.

A face or a person in two splits leaks into the test; a face with two labels limits the accuracy
that any model can reach.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryFile

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from fervit_lib.datasets.class_names import EIGHT_EMOTIONS
from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.skipped import DUPLICATE, UNREADABLE, list_skipped
from fervit_lib.system.progress import progress

THUMBNAIL = 16  # side in pixels
NEAR_THRESHOLD = 0.995  # cosine similarity
# Grey levels of 255. Flatter thumbnails are noise or a gradient, and similar by chance.
MIN_STD = 2.0
DIRECTIONS = 8  # principal directions of the thumbnails in which neighbours are searched
BLOCK = 256  # neighbouring thumbnails that are compared at once with as many others
# Images per class, in the order of EIGHT_EMOTIONS, of sets that are copied under other names.
PUBLISHED_COUNTS = {
    "RAF-DB": (867, 0, 877, 355, 5957, 3204, 2460, 1619),
    "FER2013": (4953, 0, 547, 5121, 8989, 6198, 6077, 4002),
    "CK+48": (135, 54, 177, 75, 207, 0, 84, 249),
    "JAFFE": (30, 0, 29, 32, 31, 30, 31, 30),
}


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of `audit_faces`.

    counts: images by class (rows) and split (columns) and their total, unreadable files included.
    unreadable: one row per file: split, path, error.
    skipped: one row per file that the sets do not hold: split, path, reason; see `list_skipped`.
    duplicates: one row per image that has a duplicate: group, kind, split, index, path, label (the
        class name). The kind is `exact` where another image of the group has the same pixels, else
        `near`.
    other_labels: one row per image that a second list of the set gives another class: split, path,
        label (the class that is used), other_label.
    shared_subjects: one row per person in more than one split: subject, splits.
    """

    counts: pd.DataFrame
    unreadable: pd.DataFrame
    skipped: pd.DataFrame
    duplicates: pd.DataFrame
    other_labels: pd.DataFrame
    shared_subjects: pd.DataFrame

    def groups_with_several(self, column: str) -> pd.DataFrame:
        """The rows of `duplicates` whose group has more than one split, or label: the `column`."""
        return self.duplicates[self.duplicates.groupby("group")[column].transform("nunique") > 1]

    def summary(self) -> pd.DataFrame:
        """The audit in figures: a table with the column `number`."""
        across = self.groups_with_several("split")
        contradicting = self.groups_with_several("label")
        groups = self.duplicates["group"].nunique()
        exact = self.duplicates.loc[self.duplicates["kind"] == "exact", "group"].nunique()
        numbers = {
            "images": int(self.counts["total"].sum()),
            "files left out": len(self.skipped),
            "unreadable images": len(self.unreadable),
            "images with a duplicate": len(self.duplicates),
            "groups with exact duplicates": exact,
            "groups with near duplicates only": groups - exact,
            "groups across splits": across["group"].nunique(),
            "groups with contradicting labels": contradicting["group"].nunique(),
            "images with another label in the set's table": len(self.other_labels),
            "subjects in several splits": len(self.shared_subjects),
        }
        total = self.counts["total"].reindex(EIGHT_EMOTIONS, fill_value=0)
        for name, published in PUBLISHED_COUNTS.items():
            if sum(published) == total.sum():
                classes = total.index[total != published]
                known = f"classes unlike {name}, which has as many images: "
                numbers[known + (", ".join(classes) or "none")] = len(classes)
        return pd.DataFrame({"number": numbers}).rename_axis("finding")

    def clean(
        self, datasets: Mapping[str, FaceDataset], drop_cross_split_duplicates: bool
    ) -> dict[str, FaceDataset]:
        """The sets without unreadable images and, on request, without leaks; see `skipped`.

        Args:
            datasets: the audited sets, or parts of them, by split.
            drop_cross_split_duplicates: train loses images that also occur, exactly or nearly, in
                val or test; val loses those that also occur in test. Test loses no readable image,
                so that accuracies stay comparable. This is `drop_duplicates` of 01_encode.

        Raises:
            ValueError: no face of a split is left.
        """
        cleaned = {}
        rows = self.duplicates
        for split, faces in datasets.items():
            unreadable = self.unreadable.loc[self.unreadable["split"] == split, "path"]
            faces = faces.without(pd.Index(faces.paths).isin(unreadable), UNREADABLE)
            if drop_cross_split_duplicates and split in ("train", "val"):
                # Train is not among the later splits of val, else a pair would lose both faces.
                elsewhere = rows.loc[~rows["split"].isin(["train", split]), "group"]
                leaks = rows.loc[(rows["split"] == split) & rows["group"].isin(elsewhere), "path"]
                faces = faces.without(pd.Index(faces.paths).isin(leaks), DUPLICATE)
            if not len(faces):
                path, reason = faces.skipped[-1]
                raise ValueError(
                    f"{faces.source}: expected a face to be left in {split}, got none of "
                    f"{len(faces.skipped):,} ({path}: {reason}); add images, or set "
                    f"drop_duplicates to False"
                )
            cleaned[split] = faces
        return cleaned


def audit_faces(datasets: Mapping[str, FaceDataset]) -> Audit:
    """Read every image once; count images, list unreadable files, group duplicates.

    Images are exact duplicates if they decode to the same pixels. They are near duplicates if the
    cosine similarity of their 16x16 grey thumbnails, minus their means, reaches 0.995: this ignores
    compression, brightness and contrast, but not the expression. Duplicates of duplicates are in
    one group.

    Args:
        datasets: sets of the same classes, by split.

    Raises:
        ValueError: no sets, or sets of different classes.
        TimeoutError: a file hangs.
    """
    skipped = list_skipped(datasets)
    all_classes = {faces.classes for faces in datasets.values()}
    if len(all_classes) != 1:
        raise ValueError(
            f"datasets: expected sets of the same classes, got {all_classes or 'no set'}; load all "
            f"from one source"
        )
    [classes] = all_classes
    counts = pd.DataFrame(index=pd.Index(classes, name="class"))
    for split, faces in datasets.items():
        counts[split] = np.bincount(faces.labels, minlength=len(classes))
    table = pd.concat(_describe(split, faces) for split, faces in datasets.items())
    table = table.reset_index(names="index")
    # In a file: those of a large set are many bytes.
    with TemporaryFile() as file:
        shape = (len(table) or 1, THUMBNAIL**2)
        file.write(bytes(4 * math.prod(shape)))  # on a full disk, an empty map kills the process
        thumbnails = np.memmap(file, np.float32, "r+", shape=shape)
    results: list[tuple[str, bytes]] = []
    with progress(total=len(table), desc="audit", unit=" faces") as bar:
        for faces in datasets.values():
            for error, content, thumbnail in faces.map(partial(_summarise, faces)):
                thumbnails[len(results)] = thumbnail
                results.append((error, content))
                bar.update()
    table = table.join(pd.DataFrame(results, columns=["error", "content"]))
    broken = table["error"] != ""
    splits = table.groupby("subject")["split"].unique()
    return Audit(
        counts.assign(total=counts.sum(axis=1)),
        table.loc[broken, ["split", "path", "error"]].reset_index(drop=True),
        skipped,
        _group_duplicates(table[~broken], thumbnails),
        table.loc[table["other_label"].notna(), ["split", "path", "label", "other_label"]],
        splits[splits.map(len) > 1].map(", ".join).rename("splits").reset_index(),
    )


def _describe(split: str, faces: FaceDataset) -> pd.DataFrame:
    """One row per face; a subject or another label that is unknown is missing."""
    content = {
        "split": split,
        "path": faces.paths,
        "label": np.array(faces.classes)[faces.labels],
        "subject": faces.subjects,
        "other_label": faces.other_labels,
    }
    return pd.DataFrame(content, dtype=object).replace("", None)


def _summarise(faces: FaceDataset, index: int) -> tuple[str, bytes, np.ndarray | float]:
    """The error of a face that cannot be read, or ""; the hash of its pixels; its thumbnail."""
    try:
        image, _ = faces[index]
    except OSError as error:
        # The path has a column of its own.
        return str(error).removeprefix(f"{faces.file(index)}: "), b"", 0.0
    content = f"{image.mode} {image.size} ".encode() + image.tobytes()
    # Averaged as floats, since rounding adds noise to flat images.
    grey = image.convert("L").convert("F").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return "", hashlib.blake2b(content, digest_size=16).digest(), _unit(np.asarray(grey).ravel())


def _unit(thumbnail: np.ndarray) -> np.ndarray:
    """Grey levels (D,), 0 to 255, minus their mean, of length 1; a flat thumbnail is 0."""
    centred = thumbnail - thumbnail.mean()
    return centred * (centred.std() >= MIN_STD) / max(np.linalg.norm(centred), 1e-12)


def _group_duplicates(table: pd.DataFrame, thumbnails: np.ndarray) -> pd.DataFrame:
    """The table `Audit.duplicates`; groups are numbered in the order of their first image.

    Args:
        table: the readable images; its index is their row in `thumbnails`.
        thumbnails: see `near_groups`; those that repeat are set to 0.
    """
    content = pd.factorize(table["content"])[0]  # images of the same pixels share a number
    # Only the first image of each content is compared with others.
    first = table.index[~table["content"].duplicated()]
    thumbnails[table.index[table["content"].duplicated()]] = 0
    group = near_groups(thumbnails, NEAR_THRESHOLD)[first][content]
    kind = np.where(np.bincount(content)[content] > 1, "exact", "near")
    table = table.assign(group=group, kind=kind)[np.bincount(group)[group] > 1]
    table["group"] = pd.factorize(table["group"])[0]
    columns = ["group", "kind", "split", "index", "path", "label"]
    return table.sort_values("group", kind="stable", ignore_index=True)[columns]


def near_groups(thumbnails: np.ndarray, threshold: float) -> np.ndarray:
    """The group of each thumbnail, (N,) int: those that look the same, directly or by others.

    Comparing each with each would take the square of their number. Unit vectors whose cosine is at
    least t are at most sqrt(2 - 2t) apart, also when projected on a few directions: only those that
    are this near in the principal directions are compared, and only if no chain joins them yet.
    Beside `thumbnails`, memory is about 200 bytes per thumbnail.

    Args:
        thumbnails: (N, D) float32 of `_unit`; those that are 0 are alone in their group.
        threshold: the smallest cosine similarity of neighbours.
    """
    group = np.arange(len(thumbnails))
    directions = np.linalg.eigh(thumbnails.T @ thumbnails)[1][:, -DIRECTIONS:]
    projected = thumbnails @ directions
    radius = (2 - 2 * threshold) ** 0.5 + 1e-4  # the margin is larger than rounding errors
    rows = np.flatnonzero(thumbnails.any(1))
    # Most faces of most sets have no neighbour; the tree's order keeps the others' together.
    tree = KDTree(projected[rows])
    distances, _ = tree.query(projected[rows], 2, distance_upper_bound=radius)
    order = tree.indices[np.isfinite(distances[tree.indices, 1])]
    blocks = [rows[order[start : start + BLOCK]] for start in range(0, len(order), BLOCK)]
    # The corners of the box around each block.
    low = np.array([projected[block].min(0) for block in blocks])
    high = np.array([projected[block].max(0) for block in blocks])
    for number, block in enumerate(blocks):
        gaps = np.maximum(low[number:] - high[number], low[number] - high[number:]).clip(0)
        for other in np.flatnonzero(np.linalg.norm(gaps, axis=1) <= radius) + number:
            near = group[block][:, None] != group[blocks[other]]
            if near.any():
                near &= thumbnails[block] @ thumbnails[blocks[other]].T >= threshold
            if near.any():
                first, second = near.nonzero()
                edges = group[block[first]], group[blocks[other][second]]
                graph = coo_array((np.ones(len(first)), edges), shape=(len(group), len(group)))
                group = connected_components(graph, directed=False)[1][group]
    return group
