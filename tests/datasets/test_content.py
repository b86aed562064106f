import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from xxhash import xxh3_128_digest

from fervit_lib.datasets import FaceDataset, content, hash_faces, sample_by_content

CLASSES = ("happy", "sad")


def write_faces(folder: Path, n: int = 6) -> FaceDataset:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{i}.bmp")
    paths = tuple(f"{i}.bmp" for i in range(n))
    return FaceDataset(CLASSES, np.arange(n) % 2, paths, folder)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are remembered at once, not only when they are 2 s old."""
    monkeypatch.setattr(content, "SETTLED_NS", 0)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    hash_file = content._hash_file

    def counted(file: Path) -> bytes:
        read.append(file)
        return hash_file(file)

    monkeypatch.setattr(content, "_hash_file", counted)
    return read


def test_a_hash_is_of_the_bytes_of_the_file(tmp_path: Path) -> None:
    faces = write_faces(tmp_path / "faces")
    hashes = hash_faces(faces, tmp_path / "manifest")
    for path, digest in zip(faces.paths, hashes, strict=True):
        assert digest.tobytes() == xxh3_128_digest((tmp_path / "faces" / path).read_bytes())


def test_unchanged_files_are_not_read_again(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = write_faces(tmp_path / "faces")
    time.sleep(0.02)  # longer than a step of the file system's clock
    first = hash_faces(faces, tmp_path / "manifest")
    read = count_reads(monkeypatch)
    assert np.array_equal(hash_faces(faces, tmp_path / "manifest"), first)
    assert not read
    changed = tmp_path / "faces" / "3.bmp"
    before = changed.stat()
    changed.write_bytes(changed.read_bytes()[::-1])
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp --preserve` does
    again = hash_faces(faces, tmp_path / "manifest")
    assert read == [changed]
    assert (again != first).any(1).tolist() == [i == 3 for i in range(6)]


def test_a_file_that_has_just_been_written_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second write within one step of the file system's clock changes no date and no size."""
    monkeypatch.setattr(content, "SETTLED_NS", 10**12)
    faces = write_faces(tmp_path / "faces")
    hash_faces(faces, tmp_path / "manifest")
    read = count_reads(monkeypatch)
    hash_faces(faces, tmp_path / "manifest")
    assert len(read) == 6


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "garbage", "remove"])
def test_a_damaged_manifest_is_computed_again(tmp_path: Path, settled: None, damage: str) -> None:
    faces = write_faces(tmp_path / "faces")
    time.sleep(0.02)
    manifest = tmp_path / "manifest"
    expected = hash_faces(faces, manifest)
    whole = manifest.read_bytes()
    flipped = bytes([*whole[:-1], whole[-1] ^ 1])
    damaged = {"cut": whole[:-7], "flip": flipped, "empty": b"", "garbage": b"{" * 80}
    if damage == "remove":
        manifest.unlink()
    else:
        manifest.write_bytes(damaged[damage])
    assert np.array_equal(hash_faces(faces, manifest), expected)
    assert sorted(manifest.read_bytes()) == sorted(whole)


def test_faces_on_a_read_only_disk_can_be_hashed(tmp_path: Path, settled: None) -> None:
    faces = write_faces(tmp_path / "faces")
    time.sleep(0.02)
    (tmp_path / "file").write_text("")  # no folder, so that nothing can be written in it
    assert hash_faces(faces, tmp_path / "file" / "manifest").shape == (6, 16)


def test_several_faces_of_a_picture_differ_by_their_box_and_it_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_faces(tmp_path / "faces", 1)
    boxes = np.array([[0, 0, 4, 4], [4, 4, 8, 8], [0, 0, 4, 4]])
    faces = FaceDataset(CLASSES, np.array([0, 1, 0]), ("0.bmp",) * 3, tmp_path / "faces")
    faces = FaceDataset(**{**faces.__dict__, "boxes": boxes})
    read = count_reads(monkeypatch)
    first, second, third = hash_faces(faces, tmp_path / "manifest").tolist()
    assert len(read) == 1
    assert first == third != second


def test_a_row_of_a_table_is_its_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 48, 48), np.uint8)
    pixels[3] = pixels[0]
    names = tuple(f"fer2013.csv:{i}" for i in range(4))
    table = FaceDataset(CLASSES, np.arange(4) % 2, names, tmp_path / "none.csv", pixels=pixels)
    hashes = hash_faces(table, tmp_path / "manifest")
    assert len(np.unique(hashes, axis=0)) == 3
    assert np.array_equal(hashes[0], hashes[3])
    assert np.array_equal(hash_faces(table.subset([2, 1]), tmp_path), hashes[[2, 1]])


def test_a_missing_face_is_named(tmp_path: Path) -> None:
    faces = write_faces(tmp_path / "faces")
    (tmp_path / "faces" / "4.bmp").unlink()
    with pytest.raises(OSError, match=r"4\.bmp"):
        hash_faces(faces, tmp_path / "manifest")


def test_a_sample_hardly_depends_on_other_faces(tmp_path: Path) -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (200, 16), np.uint8)
    sample = sample_by_content(hashes, 50)
    assert len(sample) == 50 and (np.diff(sample) > 0).all()
    left_out = np.setdiff1d(np.arange(200), sample)[0]
    fewer = np.delete(hashes, left_out, axis=0)
    assert np.array_equal(fewer[sample_by_content(fewer, 50)], hashes[sample])
    assert np.array_equal(sample_by_content(hashes, 500), np.arange(200))
