from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervit_lib.datasets import FaceDataset, Protocol, load_splits
from fervit_lib.encoders import write_aligned
from fervit_lib.encoders.images import resize_face


def write_set(root: Path) -> dict[str, FaceDataset]:
    """24 pictures of 12 people in two classes, in three splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("happy", "sad"):
            for person in range(2):
                for picture in range(2):
                    folder = root / split / name / f"{split}-{name}-{person}"
                    folder.mkdir(parents=True, exist_ok=True)
                    pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{picture}.png")
    return load_splits(root, Protocol())


def crop(image: Image.Image) -> Image.Image:
    return image.crop((5, 5, 25, 25))


def test_aligned_faces_are_the_same_set(tmp_path: Path) -> None:
    sets = write_set(tmp_path / "set")
    folder = tmp_path / "aligned"
    for _ in range(2):  # the second time replaces the first
        write_aligned(sets, crop, 32, folder)
    again = load_splits(folder, Protocol())
    for split, faces in sets.items():
        written = again[split]
        assert written.classes == faces.classes
        assert sorted(written.labels) == sorted(faces.labels)
        assert len(set(written.subjects)) == len(set(faces.subjects)) == 4
        expected = {resize_face(crop(image), 32).tobytes() for image, _ in faces}
        assert {resize_face(image, 32).tobytes() for image, _ in written} == expected
    assert not (tmp_path / "aligned.partial").exists()


def test_a_failed_write_leaves_the_previous_set(tmp_path: Path) -> None:
    sets = write_set(tmp_path / "set")
    folder = tmp_path / "aligned"
    write_aligned(sets, crop, 32, folder)
    before = sorted(folder.rglob("*.png"))
    sets["val"].file(0).write_bytes(b"damaged")
    with pytest.raises(OSError, match="val"):
        write_aligned(sets, crop, 16, folder)
    assert sorted(folder.rglob("*.png")) == before
    with Image.open(before[0]) as image:
        assert image.size == (32, 32)
