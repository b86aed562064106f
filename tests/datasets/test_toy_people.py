from pathlib import Path

import numpy as np
import pytest

from fervit_lib.datasets import draw_toy_people, load_people
from fervit_lib.datasets.toy_people import toy_person
from tests.datasets.conftest import pictures_hash


def test_seed_0_draws_the_pictures_that_it_always_drew(tmp_path: Path) -> None:
    """If this changes, every result on toy people changes: raise `VERSION`, tell the changelog."""
    drawn = pictures_hash(draw_toy_people(tmp_path / "toy", 100))
    assert drawn == "3a5085dac453c564686236c608dabd45a7419d2132c745bf90c3d5accca3a085"


def test_splits_are_60_10_30_and_marked_as_synthetic(tmp_path: Path) -> None:
    folder = draw_toy_people(tmp_path / "toy", 10, 32)
    people = {split: load_people(folder, split) for split in ("train", "val", "test")}
    assert {split: len(images) for split, images in people.items()} == {
        "train": 6,
        "val": 1,
        "test": 3,
    }
    assert people["train"].synthetic
    with pytest.raises(ValueError, match="num_scenes: expected"):
        draw_toy_people(tmp_path / "few", 9)


def test_masks_are_binary_and_hold_a_person() -> None:
    for seed in range(5):
        image, mask = toy_person(np.random.default_rng(seed), 48)
        assert image.size == mask.size == (48, 48)
        values = np.asarray(mask)
        assert set(np.unique(values)) == {0, 255}
        assert (values == 255).mean() >= 0.01
