"""What is wrong with a set of faces before training: unreadable files, duplicates, shared subjects.

A face or a person in two splits leaks into the test; a face with two labels limits the accuracy
that any model can reach.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryFile

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from fervit_lib.datasets.class_names import EIGHT_EMOTIONS
from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.skipped import DUPLICATE, UNREADABLE, list_skipped
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.progress import progress
from fervit_lib.system.shards import MappedRows

THUMBNAIL = 16  # side in pixels
NEAR_THRESHOLD = 0.995  # cosine similarity
# Grey levels of 255. Flatter thumbnails are noise or a gradient, and similar by chance.
MIN_STD = 2.0
DIRECTIONS = 8  # principal directions of the thumbnails in which neighbours are searched
BLOCK = 4096  # pairs that are compared at once
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
        thumbnails = np.memmap(file, np.float32, "w+", shape=(len(table) or 1, THUMBNAIL**2))
    results: list[tuple[str, bytes]] = []
    with PrefetchPool() as pool, progress(total=len(table), desc="audit", unit=" faces") as bar:
        for faces in datasets.values():
            summaries = pool.map(partial(_summarise, faces), range(len(faces)), faces.file)
            for error, content, thumbnail in summaries:
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
    return "", hashlib.blake2b(content, digest_size=16).digest(), np.asarray(grey).ravel()


def _group_duplicates(table: pd.DataFrame, thumbnails: np.ndarray) -> pd.DataFrame:
    """The table `Audit.duplicates`; groups are numbered in the order of their first image.

    Args:
        table: the readable images; its index is their row in `thumbnails`.
    """
    content = pd.factorize(table["content"])[0]  # images of the same pixels share a number
    # Only the first image of each content is compared with others.
    first = np.unique(content, return_index=True)[1]
    compared = MappedRows([thumbnails], table.index[first].to_numpy())
    pairs = near_pairs(compared, NEAR_THRESHOLD)
    edges = np.ones(len(pairs)), tuple(pairs.T)
    # The components of this graph join duplicates of duplicates, which may not be near themselves.
    graph = coo_array(edges, shape=(len(first), len(first)))
    group = connected_components(graph, directed=False)[1][content]
    kind = np.where(np.bincount(content)[content] > 1, "exact", "near")
    table = table.assign(group=group, kind=kind)[np.bincount(group)[group] > 1]
    table["group"] = pd.factorize(table["group"])[0]
    columns = ["group", "kind", "split", "index", "path", "label"]
    return table.sort_values("group", kind="stable", ignore_index=True)[columns]


def near_pairs(thumbnails: Tensor | MappedRows, threshold: float) -> np.ndarray:
    """Pairs of thumbnails that look the same.

    Comparing each with each would take the square of their number. Unit vectors whose cosine is at
    least t are at most sqrt(2 - 2t) apart, also when projected on a few directions: only those that
    are this near in the principal directions are compared.

    Args:
        thumbnails: (N, D) float32 grey levels, 0 to 255.
        threshold: the smallest cosine similarity, after the mean of each thumbnail is subtracted.

    Returns:
        (P, 2) int64 indices i < j. Flat thumbnails (standard deviation below 2 grey levels) are in
        no pair.
    """
    # Block by block: each of these would need the memory of all thumbnails again.
    products = sum(unit.T @ unit for unit in map(_unit, thumbnails.split(BLOCK)))
    directions = torch.linalg.eigh(products).eigenvectors[:, -DIRECTIONS:]
    projected = torch.cat([_unit(part) @ directions for part in thumbnails.split(BLOCK)])
    # Flat ones are zeros.
    textured = torch.cat([_unit(part).any(1) for part in thumbnails.split(BLOCK)]).nonzero()[:, 0]
    tree = KDTree(projected[textured].numpy())
    radius = (2 - 2 * threshold) ** 0.5 + 1e-4  # the margin is larger than rounding errors
    candidates = torch.from_numpy(tree.query_pairs(radius, output_type="ndarray"))
    pairs = []
    for part in textured[candidates.long()].split(BLOCK):
        first, second = (_unit(thumbnails[part[:, side]]) for side in (0, 1))
        pairs.append(part[(first * second).sum(1) >= threshold])
    return torch.cat(pairs).numpy()


def _unit(thumbnails: Tensor) -> Tensor:
    """Thumbnails (n, D) minus their means, of length 1; flat ones are 0."""
    centred = thumbnails - thumbnails.mean(1, keepdim=True)
    flat = centred.square().mean(1).sqrt() < MIN_STD
    return torch.nn.functional.normalize(centred, dim=1).masked_fill(flat[:, None], 0)
