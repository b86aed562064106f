from pathlib import Path

import numpy as np
import pytest

from fervit_lib.datasets import few_shot_mask, load_faces, stratified_mask
from tests.datasets.conftest import write_folder


def test_a_truncated_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1})
    path = root / "train" / "angry" / "0.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match="train/angry/0.png: cannot be read as an image"):
        load_faces(root, "train")[0]


def test_a_smaller_part_is_a_subset_of_a_larger_one(tmp_path: Path) -> None:
    faces = load_faces(write_folder(tmp_path, {"train": 40, "val": 1, "test": 1}), "train")
    tenth = faces.stratified(0.1, seed=3)
    half = faces.stratified(0.5, seed=3)
    assert np.bincount(tenth.labels).tolist() == [4, 4, 4]
    assert set(tenth.paths) < set(half.paths) < set(faces.paths)
    assert faces.stratified(0.5, seed=4).paths != half.paths
    with pytest.raises(ValueError, match="fraction: expected"):
        faces.stratified(0, seed=0)


def test_at_most_so_many_of_every_class(tmp_path: Path) -> None:
    faces = load_faces(write_folder(tmp_path, {"train": 5, "val": 1, "test": 1}), "train")
    few = faces.at_most(2, seed=3)
    assert np.bincount(few.labels).tolist() == [2] * len(faces.classes)
    assert faces.at_most(10_000, seed=3).paths == faces.paths
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="smoke"):
            faces.at_most(wrong, seed=3)


def test_every_class_keeps_its_share_or_its_number_of_samples() -> None:
    labels = np.repeat([0, 2, 5], [40, 8, 3])  # not every label occurs
    assert np.bincount(labels[stratified_mask(labels, 0.25, 0)]).tolist() == [10, 0, 2, 0, 0, 1]
    assert np.bincount(labels[stratified_mask(labels, 0.01, 0)]).tolist() == [1, 0, 1, 0, 0, 1]
    few = few_shot_mask(labels, 2, 0)
    assert np.bincount(labels[few]).tolist() == [2, 0, 2, 0, 0, 2]
    assert (few <= few_shot_mask(labels, 3, 0)).all()
    with pytest.raises(ValueError, match="shots: expected 1 to 3"):
        few_shot_mask(labels, 4, 0)


def test_faces_left_out_are_listed_with_the_reason(tmp_path: Path) -> None:
    faces = load_faces(write_folder(tmp_path, {"train": 2, "val": 1, "test": 1}), "train")
    left_out = np.arange(len(faces)) < 2
    rest = faces.without(left_out, "blurred").without(np.arange(4) == 3, "dark")
    assert rest.paths == faces.paths[2:5]
    assert rest.skipped == (
        (faces.paths[0], "blurred"),
        (faces.paths[1], "blurred"),
        (faces.paths[5], "dark"),
    )
    assert rest.subset([0]).skipped == rest.skipped
