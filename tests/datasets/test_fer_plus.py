from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fervit_lib.datasets import (
    EMOTIONS,
    Protocol,
    load_faces,
    load_votes,
    majority_labels,
    soft_labels,
)
from fervit_lib.datasets.faces import label_by_votes, read_faces
from fervit_lib.datasets.fer_plus import read_votes
from tests.datasets.conftest import (
    FER_PLUS,
    fer_plus_votes,
    table_rows,
    write_table,
)

TABLE = fer_plus_votes(
    [
        {"happiness": 9, "neutral": 1},  # a single vote does not count
        {"sadness": 5, "neutral": 5},  # no majority
        {"unknown": 6, "anger": 4},
        {"NF": 10},
        {"contempt": 8, "disgust": 2},  # contempt is not among the seven classes
        {"fear": 6, "surprise": 4},
    ]
)


def test_majority_and_soft_labels() -> None:
    position = EMOTIONS.index
    majority = majority_labels(TABLE, EMOTIONS)
    assert majority.tolist() == [position("happy"), -1, -1, -1, -1, position("fear")]
    soft = soft_labels(TABLE, EMOTIONS)
    assert soft[0, position("happy")] == 1
    assert soft[1, [position("sad"), position("neutral")]].tolist() == [0.5, 0.5]
    assert not soft[[2, 3]].any()
    assert soft[4, position("disgust")] == 1  # of the votes for the seven classes
    assert soft[5, position("fear")] == pytest.approx(0.6)
    assert soft.sum(1).tolist() == pytest.approx([1, 1, 0, 0, 1, 1])


def test_faces_with_votes_have_their_labels_and_unclear_ones_are_skipped(tmp_path: Path) -> None:
    rows, _ = table_rows({"Training": 3, "PublicTest": 2, "PrivateTest": 1})
    source = write_table(tmp_path / "fer2013.csv", rows)
    given = [{"happiness": 6, "sadness": 4} if i % 3 else {"NF": 10} for i in range(42)]
    usages = [row.split(",")[-1] for row in rows]
    fer_plus_votes(given, usages).to_csv(tmp_path / "fer2013new.csv", index=False)
    for split in ("train", "val", "test"):
        hard = load_faces(source, split)
        soft = load_faces(source, split, labels="soft")
        unclear = [int(path.split(":")[1]) % 3 == 2 for path in hard.paths]
        assert soft.paths == tuple(np.array(hard.paths)[~np.array(unclear)])
        assert [face.path for face in soft.skipped] == list(np.array(hard.paths)[unclear])
        image, label = soft[0]
        assert image.size == (48, 48)
        assert label.tolist() == pytest.approx([0, 0, 0, 0.6, 0, 0.4, 0])
        assert load_faces(source, split, labels="majority").labels.tolist() == [3] * len(soft)
        assert soft.subset([1])[0][1].tolist() == soft[1][1].tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four faces named as in FER+, of five rows: the second has no name."""
    for number, name in enumerate(("happy", "sad", "happy", "sad")):
        path = tmp_path / "train" / name / f"fer{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 48), 40 * number).save(path)
    rows = [{"happiness": 9}, {"NF": 10}, {"sadness": 9}, {"happiness": 9}, {"sadness": 9}]
    fer_plus_votes(rows).to_csv(tmp_path / "fer2013new.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("labels", ["majority", "soft"])
def test_a_file_has_the_votes_of_the_row_with_its_name(folder: Path, labels: str) -> None:
    faces = read_faces(folder)
    voted = label_by_votes(faces, labels)
    assert voted.paths == faces.paths
    assert voted.labels.tolist() == faces.labels.tolist()
    assert not voted.skipped


def test_a_file_that_the_votes_do_not_name(folder: Path) -> None:
    (folder / "train/sad/fer0000003.png").rename(folder / "train/sad/fer0000004.png")
    with pytest.raises(ValueError, match="fer2013new.csv: .* 1 of 4 others, .*fer0000004"):
        label_by_votes(read_faces(folder), "majority")


def test_a_name_in_two_rows(folder: Path) -> None:
    table = pd.read_csv(folder / "fer2013new.csv")
    pd.concat([table, table.tail(1)]).to_csv(folder / "fer2013new.csv", index=False)
    with pytest.raises(ValueError, match="Image name"):
        label_by_votes(read_faces(folder), "majority")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table whose votes agree with its labels."""
    numbers = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    rows, _ = table_rows({"Training": 2, "PublicTest": 2, "PrivateTest": 2})
    given = [{numbers[int(row[0])]: 10} for row in rows]
    usages = [row.split(",")[-1] for row in rows]
    fer_plus_votes(given, usages).to_csv(tmp_path / "fer2013new.csv", index=False)
    return write_table(tmp_path / "fer2013.csv", rows)


def test_a_row_of_a_table_has_the_votes_of_the_same_row(table: Path) -> None:
    for split in ("train", "val", "test"):
        hard, voted = load_faces(table, split), load_faces(table, split, "majority")
        assert voted.paths == hard.paths
        assert voted.labels.tolist() == hard.labels.tolist()
    few = load_votes(table, ["fer2013.csv:7", "fer2013.csv:2"])
    assert few["sadness"].tolist() == [0, 0] and few["anger"].tolist() == [0, 10]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: rows + rows[-1:],
        lambda rows: rows[::-1],
        lambda rows: rows[:-1] + [rows[-1].replace("PrivateTest", "PublicTest")],
    ],
    ids=["rows taken out", "a row added", "other order", "other usage"],
)
def test_votes_of_other_rows_are_refused_whatever_the_split(table: Path, split, change) -> None:
    header, *rows = table.read_text().splitlines()
    write_table(table, change(rows), header)
    with pytest.raises(ValueError, match="fer2013new.csv: "):
        load_faces(table, split, "majority")
    load_faces(table, split)


@pytest.mark.parametrize("spelling", [str, str.title, lambda name: f"0_{name.upper()}"])
def test_classes_under_the_names_of_fer_plus(tmp_path: Path, spelling) -> None:
    rows = []
    for split in ("train", "val", "test"):
        for i, emotion in enumerate(FER_PLUS[:8]):
            path = tmp_path / split / spelling(emotion) / f"fer{len(rows):07d}.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (48, 48), len(rows)).save(path)
            rows.append({emotion: 7, FER_PLUS[(i + 1) % 8]: 3})
    fer_plus_votes(rows).to_csv(tmp_path / "fer2013new.csv", index=False)
    for protocol in (Protocol(), Protocol(class_names="own")):
        hard = load_faces(tmp_path, "train", protocol=protocol)
        for labels in ("majority", "soft"):
            voted = load_faces(tmp_path, "train", labels, protocol)
            assert voted.paths == hard.paths
            assert voted.labels.tolist() == hard.labels.tolist()
    np.testing.assert_allclose(voted.soft_labels.max(1), 0.7)


def test_classes_without_votes_are_named() -> None:
    for labels in (majority_labels, soft_labels):
        with pytest.raises(ValueError, match="got bored, tired;"):
            labels(TABLE, ["bored", "happy", "tired"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found no row"),
        ("a,b\n1,2\n", "row 1: expected 10 cells, neutral"),
        (f"{','.join(FER_PLUS)}\n1,many{',0' * 8}\n", "row 2: happiness: expected .* got 'many'"),
        (f"{','.join(FER_PLUS)}\n1,-3{',0' * 8}\n", "row 2: happiness: expected a number of votes"),
        (f"{','.join(FER_PLUS)}\n1,{',0' * 8}\n", "row 2: happiness: expected .* got ''"),
        (f"{','.join(FER_PLUS)}\n1,2\n{'1,' * 40}\n", "row 2: expected 10 cells"),
    ],
)
def test_damaged_votes_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "fer2013new.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"fer2013new.csv.*{message}"):
        read_votes(path)


def test_missing_votes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"fer2013new.csv: no FER\+ votes"):
        load_votes(tmp_path, ["fer0000003.png"])
