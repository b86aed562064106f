from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fervit_lib.datasets import Protocol, load_faces, load_splits
from fervit_lib.encoders import encode_faces
from fervit_lib.inputs import load_pixels, load_store_faces
from fervit_lib.latents import LatentStore, complete_store
from fervit_lib.system.atomic import read_json, write_json

CPU = torch.device("cpu")
SPLITS = ("train", "val", "test")


class Mean(torch.nn.Module):
    img_size = 8

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))[:, None, None].expand(-1, 2, 4).contiguous()


def write_store(folder: Path, n: int = 5) -> LatentStore:
    """A store of faces of 8x8 pixels, `n` per class and split; the train split of it."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for name in ("happy", "sad"):
            (folder / "faces" / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(folder / "faces" / split / name / f"{i:04d}.png")
    encode(folder)
    return LatentStore.open(folder / "codes", "train")


def encode(folder: Path) -> None:
    sets = {split: load_faces(folder / "faces", split) for split in SPLITS}
    for split, faces in sets.items():
        encode_faces(Mean(), "sha", faces, folder / "codes", split, device=CPU)
    complete_store(
        folder / "codes",
        {split: len(faces) for split, faces in sets.items()},
        classes=("happy", "sad"),
        encoder="mean",
        faces=folder / "faces",
        synthetic=True,
    )


def test_faces_that_changed_after_encoding_are_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    face = tmp_path / "faces/train/sad/0003.png"
    face.touch()
    before = load_pixels(store, np.arange(len(store)), 8)
    Image.fromarray(255 - np.asarray(Image.open(face))).save(face)
    with pytest.raises(ValueError, match=r"train/sad/0003\.png.*changed.*01_encode"):
        load_store_faces(store, np.arange(len(store)))
    unchanged = [i for i, path in enumerate(store.paths) if path != "train/sad/0003.png"]
    assert torch.equal(load_pixels(store, np.array(unchanged), 8), before[unchanged])
    encode(tmp_path)
    store = LatentStore.open(tmp_path / "codes", "train")
    after = load_pixels(store, np.arange(len(store)), 8)
    changed = store.paths.index("train/sad/0003.png")
    assert (after != before).flatten(1).any(1).nonzero().flatten().tolist() == [changed]
    assert torch.equal(after[changed], 255 - before[changed])


def test_faces_of_a_store_have_the_hashes_of_their_content(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    faces = load_store_faces(store, np.array([7, 2]))
    assert np.array_equal(faces.hashes, store.hashes[[7, 2]])
    assert faces.hashes.shape == (2, 16)


def test_faces_are_loaded_by_the_protocol_of_the_store(tmp_path: Path) -> None:
    """Of folds by subject, a class that is left out, and classes under other names."""
    faces = tmp_path / "faces"
    for split in ("train", "test"):
        for name in ("Happiness", "anger", "sad"):
            for subject in range(4):
                path = faces / split / name / f"S{subject}" / f"{split}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), 20 * subject + len(name)).save(path)
    protocol = Protocol(folds=4, fold=3, leave_out="anger")
    sets = load_splits(faces, protocol)
    for split, part in sets.items():
        encode_faces(Mean(), "sha", part, tmp_path / "codes", split, device=CPU)
    complete_store(
        tmp_path / "codes",
        {split: len(part) for split, part in sets.items()},
        classes=sets["train"].classes,
        encoder="mean",
        faces=faces,
        synthetic=True,
        protocol=asdict(protocol),
    )
    for split, part in sets.items():
        store = LatentStore.open(tmp_path / "codes", split)
        loaded = load_store_faces(store, np.arange(len(store))[::-1])
        assert loaded.paths == part.paths[::-1]
        assert loaded.labels.tolist() == part.labels[::-1].tolist()
        assert loaded.classes == ("happy", "sad")
    changed = read_json(tmp_path / "codes" / "store.json") | {"protocol": {"fold": "x", "b": 1}}
    write_json(tmp_path / "codes" / "store.json", changed)
    store = LatentStore.open(tmp_path / "codes", "test")
    with pytest.raises(ValueError, match="store.json: protocol"):
        load_store_faces(store, np.arange(1))
