from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fervit_lib.datasets import EMOTIONS, load_faces, load_votes, majority_labels, soft_labels
from fervit_lib.datasets.fer_plus import read_votes
from tests.datasets.conftest import table_rows, write_table

COLUMNS = [
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
]


def votes(*rows: dict[str, int]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows), columns=COLUMNS).fillna(0).astype(int)
    table.insert(0, "Usage", "Training")
    table.insert(1, "Image name", [f"fer{i:07d}.png" for i in range(len(table))])
    return table


TABLE = votes(
    {"happiness": 9, "neutral": 1},  # a single vote does not count
    {"sadness": 5, "neutral": 5},  # no majority
    {"unknown": 6, "anger": 4},
    {"NF": 10},
    {"contempt": 8, "disgust": 2},  # contempt is not among the seven classes
    {"fear": 6, "surprise": 4},
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
    votes(*given).to_csv(tmp_path / "fer2013new.csv", index=False)
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


def test_votes_belong_to_the_right_rows(tmp_path: Path) -> None:
    table = votes(*({"happiness": 10 - i, "fear": i} for i in range(5)))
    table.to_csv(tmp_path / "fer2013new.csv", index=False)
    of_images = load_votes(tmp_path, ["train/happy/fer0000003.png", "test/sad/fer0000000.png"])
    assert of_images["fear"].tolist() == [3, 0]
    of_rows = load_votes(tmp_path / "fer2013.csv", ["fer2013.csv:2", "fer2013.csv:6"])
    assert of_rows["fear"].tolist() == [0, 4]
    with pytest.raises(ValueError, match=r"fer2013new.csv: has 5 rows.* fer2013.csv:7"):
        load_votes(tmp_path / "fer2013.csv", ["fer2013.csv:7"])
    with pytest.raises(ValueError, match=r"fer2013new.csv: .*named .*, got train/happy/1.jpg"):
        load_votes(tmp_path, ["train/happy/1.jpg"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("a,b\n1,2\n", "no column"),
        (f"{','.join(COLUMNS)}\n1,many{',0' * 8}\n", "row 2: happiness is many"),
        (f"{','.join(COLUMNS)}\n1,-3{',0' * 8}\n", "row 2: happiness is -3"),
        (f"{','.join(COLUMNS)}\n1,{',0' * 8}\n", "row 2: happiness is nan"),
        (f"{','.join(COLUMNS)}\n1,2\n{'1,' * 40}\n", "cannot be read"),
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
