from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fervit_lib import inputs
from fervit_lib.datasets import Protocol, load_faces, load_splits
from fervit_lib.encoders import encode_faces
from fervit_lib.evaluation import Faces
from fervit_lib.inputs import load_pixels, load_store_faces, map_pixels
from fervit_lib.latents import LatentStore, complete_store
from fervit_lib.models import create_model
from fervit_lib.system.atomic import read_json, write_json
from fervit_lib.training import data
from fervit_lib.training.data import face_dls

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


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "SHARD_SIZE", 4)


def pixel_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*/*.safetensors"))


def test_mapped_pixels_are_the_faces(tmp_path: Path, small_shards: None) -> None:
    store = write_store(tmp_path)
    for size, method in ((8, "squish"), (6, "crop")):
        rows = map_pixels(store, size, method)
        assert rows.shape == (10, 3, size, size)
        expected = load_pixels(store, np.arange(10), size, method)
        assert torch.equal(rows[:], expected)
        assert torch.equal(rows[[9, 0, 3, 3]], expected[[9, 0, 3, 3]])
    assert len(pixel_files(store.folder)) == 6


@pytest.mark.parametrize("indices", [None, np.arange(3)])
def test_a_trained_model_reads_other_faces_at_the_size_it_learned_from(
    tmp_path: Path, small_shards: None, indices: np.ndarray | None
) -> None:
    store = replace(write_store(tmp_path), face_size=8)
    model = create_model("image", 2, model_name="pixel_linear", pretrained="none", image_size=32)
    assert inputs.inputs_for(model, store, indices).shape[1:] == (3, 8, 8)
    model.face_size = 6
    assert inputs.inputs_for(model, store, indices).shape[1:] == (3, 6, 6)
    # One evaluation keeps what it has read, for models of either size.
    faces = Faces(store.folder)
    for size in (4, 6, 4):
        model.face_size = size
        assert faces.inputs(model, "train").shape[1:] == (3, size, size)


def test_pixels_are_decoded_once(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_store(tmp_path)
    before = map_pixels(store, 8, "squish")[:]

    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(inputs, "_to_pixels", fail)
    monkeypatch.setattr(inputs, "load_faces", fail)  # nor are the faces listed
    assert torch.equal(map_pixels(store, 8, "squish")[:], before)


def test_only_files_with_a_replaced_face_are_written_again(
    tmp_path: Path, small_shards: None
) -> None:
    store = write_store(tmp_path)
    before = map_pixels(store, 8, "squish")
    map_pixels(store, 6, "squish")
    files = pixel_files(store.folder)
    Image.new("L", (8, 8), 77).save(tmp_path / "faces" / store.paths[5])
    encode(tmp_path)
    store = LatentStore.open(tmp_path / "codes", "train")
    after = map_pixels(store, 8, "squish")
    assert (after[:] != before[:]).flatten(1).any(1).nonzero().flatten().tolist() == [5]
    # The second of three files has another name; the old one is removed, of each size.
    assert len(set(files) - set(pixel_files(store.folder))) == 2
    assert len(set(pixel_files(store.folder)) - set(files)) == 1


def test_damaged_pixels_are_named(tmp_path: Path, small_shards: None) -> None:
    store = write_store(tmp_path)
    map_pixels(store, 8, "squish")
    path = store.folder / pixel_files(store.folder)[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{path.name}.*delete it"):
        map_pixels(store, 8, "squish")


def test_pixels_of_faces_that_changed_are_refused(tmp_path: Path, small_shards: None) -> None:
    store = write_store(tmp_path)
    map_pixels(store, 8, "squish")
    Image.new("L", (8, 8), 77).save(tmp_path / "faces" / store.paths[5])
    with pytest.raises(ValueError, match="changed.*01_encode"):
        map_pixels(store, 8, "squish")


@pytest.mark.parametrize("reads", ["codes", "pixels"])
def test_a_fit_reads_the_same_batches_from_disk_and_from_memory(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    write_store(tmp_path)
    faces = {split: load_faces(tmp_path / "faces", split) for split in SPLITS}
    for view in (1, 2):
        split = f"train-view{view}"
        encode_faces(
            Mean(), "sha", faces["train"], tmp_path / "codes", split, device=CPU, view=view
        )
    complete_store(
        tmp_path / "codes",
        dict.fromkeys([*SPLITS, "train-view1", "train-view2"], 10),
        classes=("happy", "sad"),
        encoder="mean",
        faces=tmp_path / "faces",
        synthetic=True,
    )
    model = SimpleNamespace(
        reads=reads, image_size=8, face_size=0, resize_method="squish", input_shape=(2, 4)
    )

    def epochs() -> list[Any]:
        torch.manual_seed(0)
        dls = face_dls(model, tmp_path / "codes", batch_size=3, device=CPU)
        batches = []
        for _ in range(3):
            for batch in dls.train:
                batches.append((*batch, dls.train.batch_indices, dls.train.batch_len))
                torch.rand(1)  # as augmentation draws
            batches += list(dls.valid)
        return batches

    resident = epochs()
    monkeypatch.setattr(data, "RESIDENT_BYTES", 0)
    mapped = epochs()
    assert len(resident) == len(mapped) == 3 * (3 + 1)
    for batch, other in zip(resident, mapped, strict=True):
        for part, same in zip(batch, other, strict=True):
            assert torch.equal(torch.as_tensor(part), torch.as_tensor(same))
