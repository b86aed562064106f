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


def test_the_folder_of_a_table_is_that_table(tmp_path: Path, rows: list[str]) -> None:
    table = write_table(tmp_path / "fer2013.csv", rows)
    (tmp_path / "fer2013.bib").write_text("@article{}")
    assert load_faces(tmp_path, "train").paths == load_faces(table, "train").paths
    assert load_faces(tmp_path, "train").source == table


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
        (f"8,{PIXELS},Training", "emotion: expected one of 0 angry.* got 8"),
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


@pytest.mark.parametrize("without", ["", "1", "16"])
@pytest.mark.parametrize(
    "header", ["emotion,pixels,Usage", "Emotion;PIXELS;usage", "emotion\tpixels\tUsage"]
)
@pytest.mark.parametrize("form", ["{}", "{}.0", " {} "])
def test_tables_as_people_have_them(
    tmp_path: Path, rows: list[str], header: str, form: str, without: str
) -> None:
    delimiter = next(sign for sign in ",;\t" if sign in header)
    form = form.replace(".", "," if delimiter == ";" else ".")  # Excel's decimal sign
    rows = [
        delimiter.join((form.format(row[0]), *row[2:].split(",")))
        for row in rows
        if row[0] not in without
    ]
    sets = load_splits(write_table(tmp_path / "t.csv", rows, header))
    names = [name for i, name in enumerate(KAGGLE_EMOTIONS) if str(i) not in without]
    assert sets["train"].classes == tuple(sorted(names))
    assert [len(faces) for faces in sets.values()] == [n * len(names) for n in (8, 2, 1)]


def test_contempt_is_7_and_subjects_have_a_column(tmp_path: Path, rows: list[str]) -> None:
    rows += [f"7,{PIXELS},{usage}" for usage in ("Training", "PublicTest", "PrivateTest")]
    with_subject = [f"{row},S{number % 5}" for number, row in enumerate(rows)]
    path = write_table(tmp_path / "t.csv", with_subject, "emotion,pixels,Usage,Subject")
    sets = load_splits(path)
    assert sets["train"].classes == tuple(sorted((*KAGGLE_EMOTIONS, "contempt")))
    for faces in sets.values():
        lines = [int(path.split(":")[1]) for path in faces.paths]
        assert faces.subjects.tolist() == [f"S{(line - 2) % 5}" for line in lines]


@pytest.mark.parametrize("name", ["train.csv", "test.csv"])
def test_the_tables_of_the_competition_have_no_usage(
    tmp_path: Path, rows: list[str], name: str
) -> None:
    columns = slice(0, 2) if name == "train.csv" else slice(1, 2)
    rows = [",".join(row.split(",")[columns]) for row in rows]
    header = ",".join(["emotion", "pixels"][columns])
    with pytest.raises(ValueError, match=f"{name}: .*icml_face_data.csv"):
        load_faces(write_table(tmp_path / name, rows, header), "train")


def test_the_remedy_of_another_number_is_not_that_the_file_is_damaged(
    tmp_path: Path, rows: list[str]
) -> None:
    path = write_table(tmp_path / "t.csv", [f"8,{PIXELS},Training", *rows])
    with pytest.raises(ValueError, match="emotion: .*7 contempt, got 8") as error:
        load_faces(path, "train")
    assert "damaged" not in str(error.value)
