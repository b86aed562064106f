import gzip
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervit_lib.datasets import EMOTIONS, SPLITS, load_faces, move_to_train
from fervit_lib.datasets.kaggle_tables import KAGGLE_EMOTIONS

USAGES = ("Training", "PublicTest", "PrivateTest")


def write_folder(
    root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("angry", "happy", "sad")
) -> Path:
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8)).save(
                    folder / f"{i}.png"
                )
    return root


def table_rows(per_class: dict[str, int]) -> tuple[list[str], np.ndarray]:
    """Rows `emotion,pixels,Usage`, and their images in that order."""
    numbers = [
        (number, usage) for usage, n in per_class.items() for number in range(7) for _ in range(n)
    ]
    images = np.random.default_rng(0).integers(0, 256, (len(numbers), 48 * 48), dtype=np.uint8)
    pixels = [" ".join(map(str, image)) for image in images]
    return [
        f"{number},{text},{usage}" for (number, usage), text in zip(numbers, pixels, strict=True)
    ], images


def write_table(path: Path, rows: list[str], header: str = "emotion,pixels,Usage") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


class TestFolders:
    def test_classes_are_alphabetical_and_every_image_is_found(self, tmp_path: Path) -> None:
        root = write_folder(tmp_path, {"train": 4, "val": 2, "test": 3}, classes=("sad", "angry"))
        (root / "train" / "angry" / "notes.txt").write_text("no image")
        for split, n in (("train", 4), ("val", 2), ("test", 3)):
            faces = load_faces(root, split)
            assert faces.classes == ("angry", "sad")
            assert len(faces) == 2 * n
            image, label = faces[len(faces) - 1]
            assert (image.size, image.mode, label) == ((48, 48), "L", 1)
            assert faces.paths[0] == f"{split}/angry/0.png"
            assert not faces.synthetic

    def test_a_missing_val_split_is_the_same_stratified_part_of_train_every_time(
        self, tmp_path: Path
    ) -> None:
        root = write_folder(tmp_path, {"train": 16, "test": 2})
        train, val = load_faces(root, "train"), load_faces(root, "val")
        assert np.bincount(val.labels).tolist() == [2, 2, 2]
        assert not set(train.paths) & set(val.paths)
        assert len(train) + len(val) == 48
        assert load_faces(root, "val").paths == val.paths

    @pytest.mark.parametrize(
        ("split", "message"), [("trian", "split: expected one of"), ("test", "no folder of that")]
    )
    def test_an_unknown_or_missing_split(self, tmp_path: Path, split: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_faces(write_folder(tmp_path, {"train": 2}), split)

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match="nowhere: no such file or folder; give a folder"
        ):
            load_faces(tmp_path / "nowhere", "train")

    def test_an_empty_class(self, tmp_path: Path) -> None:
        root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1})
        for path in (root / "val" / "happy").iterdir():
            path.unlink()
        with pytest.raises(
            ValueError, match="val/happy: expected images of class 'happy'.*found none; add some"
        ):
            load_faces(root, "val")

    def test_an_unknown_class_folder(self, tmp_path: Path) -> None:
        root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1})
        (root / "test" / "hapy").mkdir()
        with pytest.raises(
            ValueError, match="test: class folder hapy is not in train, which has angry, happy, sad"
        ):
            load_faces(root, "test")

    def test_no_train_folder(self, tmp_path: Path) -> None:
        (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n")
        with pytest.raises(
            ValueError, match="no folder 'train' in it, found fer2013.csv.*give that file"
        ):
            load_faces(tmp_path, "train")

    def test_a_truncated_image_is_named_when_it_is_read(self, tmp_path: Path) -> None:
        root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1})
        path = root / "train" / "angry" / "0.png"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(OSError, match="train/angry/0.png: cannot be read as an image"):
            load_faces(root, "train")[0]


class TestTables:
    @pytest.fixture
    def rows(self) -> list[str]:
        return table_rows({"Training": 8, "PublicTest": 2, "PrivateTest": 1})[0]

    def test_kaggles_numbers_become_alphabetical_classes(self, tmp_path: Path) -> None:
        rows, images = table_rows({"Training": 8, "PublicTest": 2, "PrivateTest": 1})
        path = write_table(tmp_path / "fer2013.csv", rows)
        sets = {split: load_faces(path, split) for split in (*SPLITS, "private_test")}
        assert {split: len(faces) for split, faces in sets.items()} == {
            "train": 49, "val": 7, "test": 14, "private_test": 7,
        }  # fmt: skip
        for faces in sets.values():
            assert faces.classes == EMOTIONS
            for i, path_in_table in enumerate(faces.paths):
                line = int(path_in_table.split(":")[1])
                image, label = faces[i]
                assert EMOTIONS[label] == KAGGLE_EMOTIONS[int(rows[line - 2][0])]
                np.testing.assert_array_equal(np.asarray(image).ravel(), images[line - 2])

    @pytest.mark.parametrize("packing", [".csv", ".csv.gz", ".csv.xz", ".zip", ".tar.gz"])
    def test_packing_changes_nothing(self, tmp_path: Path, rows: list[str], packing: str) -> None:
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

    def test_the_header_with_spaces_and_other_order(self, tmp_path: Path, rows: list[str]) -> None:
        turned = ["{0}, {2}, {1}".format(*row.split(",")) for row in rows]
        path = write_table(tmp_path / "icml_face_data.csv", turned, "emotion, Usage, pixels")
        plain = write_table(tmp_path / "fer2013.csv", rows)
        np.testing.assert_array_equal(
            load_faces(path, "train").pixels, load_faces(plain, "train").pixels
        )

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (
                "0," + " ".join(["7"] * 2303) + ",Training",
                "row 2: has 2303 pixels, expected 2304 = 48x48; the file is",
            ),
            ("7," + " ".join(["7"] * 2304) + ",Training", "row 2: emotion is '7', expected 0 to 6"),
            (
                "0," + " ".join(["7"] * 2304) + ",Test",
                "row 2: Usage is 'Test', expected one of Training, PublicTest",
            ),
            (
                "0," + " ".join(["256"] * 2304) + ",Training",
                "row 2: pixels from 256 to 256, expected 0 to 255",
            ),
            (
                "0," + " ".join(["x"] * 2304) + ",Training",
                "row 2: pixels hold something else than integers",
            ),
            ("0,7 7 7", "row 2: has 2 fields, expected 3"),
        ],
    )
    def test_a_damaged_row_is_named(
        self, tmp_path: Path, rows: list[str], row: str, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message) as failure:
            load_faces(write_table(tmp_path / "fer2013.csv", [row, *rows]), "train")
        assert "fer2013.csv" in str(failure.value)

    def test_another_csv(self, tmp_path: Path) -> None:
        path = write_table(tmp_path / "votes.csv", ["1,2"], "a,b")
        with pytest.raises(
            ValueError,
            match="votes.csv: expected a CSV file with the columns emotion, pixels, Usage",
        ):
            load_faces(path, "train")

    @pytest.mark.parametrize("packing", [".csv.gz", ".csv.xz", ".zip"])
    def test_a_truncated_archive(self, tmp_path: Path, rows: list[str], packing: str) -> None:
        plain = write_table(tmp_path / "fer2013.csv", rows)
        packed = tmp_path / f"fer2013{packing}"
        if packing == ".zip":
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(plain)
        else:
            packed.write_bytes(
                (gzip if packing == ".csv.gz" else lzma).compress(plain.read_bytes())
            )
        packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
        with pytest.raises(
            ValueError, match=f"fer2013{packing}: cannot be read as a CSV file.*download it again"
        ):
            load_faces(packed, "train")

    def test_a_class_without_rows(self, tmp_path: Path, rows: list[str]) -> None:
        path = write_table(
            tmp_path / "fer2013.csv", [row for row in rows if not row.startswith("1,")]
        )
        with pytest.raises(ValueError, match="no row with Usage 'Training' of class disgust"):
            load_faces(path, "train")


def test_a_smaller_part_lies_within_a_larger_one(tmp_path: Path) -> None:
    faces = load_faces(write_folder(tmp_path, {"train": 40, "val": 1, "test": 1}), "train")
    tenth, half = faces.stratified(0.1, seed=3), faces.stratified(0.5, seed=3)
    assert np.bincount(tenth.labels).tolist() == [4, 4, 4]
    assert set(tenth.paths) < set(half.paths) < set(faces.paths)
    assert faces.stratified(0.5, seed=4).paths != half.paths
    with pytest.raises(ValueError, match=r"fraction: expected a share in \(0, 1\], got 0"):
        faces.stratified(0, seed=0)


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_share_of_val_moves_to_train_and_no_face_is_lost(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        source = write_folder(tmp_path, {"train": 4, "val": 8, "test": 1})
    else:
        source = write_table(
            tmp_path / "fer2013.csv", table_rows({"Training": 32, "PublicTest": 1})[0]
        )
    before = {split: load_faces(source, split) for split in SPLITS}
    after = move_to_train(before, 0.75, seed=0)
    assert np.bincount(after["val"].labels).tolist() == [
        len(before["val"]) // (4 * len(before["val"].classes))
    ] * len(before["val"].classes)
    assert after["test"] is before["test"]
    places = {
        path: (split, i) for split in ("train", "val") for i, path in enumerate(before[split].paths)
    }
    joined = [
        (path, i, split) for split in ("train", "val") for i, path in enumerate(after[split].paths)
    ]
    assert sorted(path for path, _, _ in joined) == sorted(places)
    for path, i, split in joined:
        (old, label), (new, new_label) = before[places[path][0]][places[path][1]], after[split][i]
        assert label == new_label and np.array_equal(np.asarray(old), np.asarray(new))
    with pytest.raises(ValueError, match=r"val_to_train: expected a share in \[0, 1\), got 1"):
        move_to_train(before, 1.0, seed=0)
    with pytest.raises(ValueError, match="val_to_train: 0.99 leaves no face of angry in val"):
        move_to_train(before, 0.99, seed=0)
