import gzip
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fervit_lib.datasets import EMOTIONS, SPLITS, load_faces, load_splits
from tests.datasets.conftest import table_rows, write_table

# The emotion of each number, by the competition's page.
KAGGLE_EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@pytest.fixture
def rows() -> list[str]:
    return table_rows({"Training": 8, "PublicTest": 2, "PrivateTest": 1})[0]


def test_kaggles_numbers_become_alphabetical_classes(tmp_path: Path) -> None:
    rows, images = table_rows({"Training": 8, "PublicTest": 2, "PrivateTest": 1})
    path = write_table(tmp_path / "fer2013.csv", rows)
    sets = load_splits(path)
    assert {split: len(faces) for split, faces in sets.items()} == {
        "train": 56, "val": 14, "test": 7,
    }  # fmt: skip
    for faces in sets.values():
        assert faces.classes == EMOTIONS
        for i, path_in_table in enumerate(faces.paths):
            line = int(path_in_table.split(":")[1])
            image, label = faces[i]
            assert EMOTIONS[label] == KAGGLE_EMOTIONS[int(rows[line - 2][0])]
            np.testing.assert_array_equal(np.asarray(image).ravel(), images[line - 2])


@pytest.mark.parametrize("packing", [".csv", ".csv.gz", ".csv.xz", ".zip", ".tar.gz"])
def test_packing_changes_nothing(tmp_path: Path, rows: list[str], packing: str) -> None:
    (tmp_path / "plain").mkdir()
    plain = write_table(tmp_path / "plain" / "fer2013.csv", rows)
    packed = tmp_path / f"fer2013{packing}"
    if packing == ".zip":
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(plain, "fer2013/fer2013.csv")
    elif packing == ".tar.gz":
        with tarfile.open(packed, "w:gz") as archive:
            archive.add(plain, "fer2013/fer2013.csv")
    else:
        pack = {".csv": bytes, ".csv.gz": gzip.compress, ".csv.xz": lzma.compress}[packing]
        packed.write_bytes(pack(plain.read_bytes()))
    for split in SPLITS:
        expected, found = load_faces(plain, split), load_faces(packed, split)
        assert found.paths == expected.paths
        np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_the_header_with_spaces_and_other_order(tmp_path: Path, rows: list[str]) -> None:
    turned = ["{0}, {2}, {1}".format(*row.split(",")) for row in rows]
    path = write_table(tmp_path / "icml_face_data.csv", turned, "emotion, Usage, pixels")
    plain = write_table(tmp_path / "fer2013.csv", rows)
    np.testing.assert_array_equal(
        load_faces(path, "train").pixels, load_faces(plain, "train").pixels
    )


PIXELS = " ".join(["7"] * 2304)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"0,{PIXELS[2:]},Training", "pixels: expected 2304 .*, got 2303"),
        (f"0,256{PIXELS[1:]},Training", "pixels: expected .* 0 to 255, got 2304 from 7 to 256"),
        (f"0,-7{PIXELS[1:]},Training", "pixels: expected .* 0 to 255, got 2304 from -7 to 7"),
        (f"0,x{PIXELS[1:]},Training", "pixels: expected"),
        (f"8,{PIXELS},Training", "emotion is '8', expected"),
        (f"0,{PIXELS},Tset", "Usage is 'Tset', expected"),
        ("0,7 7 7", "fields: expected 3"),
        (f"0,{PIXELS},Training,more", "fields: expected 3"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, rows: list[str], row: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"fer2013.csv, row 2: {message}"):
        load_faces(write_table(tmp_path / "fer2013.csv", [row, *rows]), "train")


def test_another_csv(tmp_path: Path) -> None:
    path = write_table(tmp_path / "votes.csv", ["1,2"], "a,b")
    with pytest.raises(ValueError, match="votes.csv: expected a CSV file with the columns"):
        load_faces(path, "train")


@pytest.mark.parametrize("packing", [".csv.gz", ".csv.xz", ".zip"])
def test_a_truncated_archive(tmp_path: Path, rows: list[str], packing: str) -> None:
    plain = write_table(tmp_path / "fer2013.csv", rows)
    packed = tmp_path / f"fer2013{packing}"
    if packing == ".zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(plain)
    else:
        packed.write_bytes((gzip if packing == ".csv.gz" else lzma).compress(plain.read_bytes()))
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    with pytest.raises(
        ValueError, match=f"fer2013{packing}: cannot be read as a CSV file.*download it again"
    ):
        load_faces(packed, "train")


def test_a_class_without_training_rows(tmp_path: Path) -> None:
    rows, _ = table_rows({"Training": 1, "PublicTest": 1, "PrivateTest": 1})
    path = write_table(tmp_path / "fer2013.csv", rows[:1] + rows[2:])
    with pytest.raises(ValueError, match="fer2013.csv: .* train, found none of disgust"):
        load_faces(path, "train")
