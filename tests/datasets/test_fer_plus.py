from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fervit_lib.datasets import EMOTIONS, load_faces, majority, vote_shares, votes_on

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
    {"happiness": 9, "neutral": 1},  # a single vote is a slip
    {"sadness": 5, "neutral": 5},  # no majority
    {"unknown": 6, "anger": 4},  # no verdict
    {"NF": 10},
    {"contempt": 8, "disgust": 2},  # not among the seven
    {"fear": 6, "surprise": 4},
)


def test_majority_and_shares() -> None:
    number = EMOTIONS.index
    assert majority(TABLE, EMOTIONS).tolist() == [number("happy"), -1, -1, -1, -1, number("fear")]
    shares = vote_shares(TABLE, EMOTIONS)
    assert shares[0, number("happy")] == 1
    assert shares[1, [number("sad"), number("neutral")]].tolist() == [0.5, 0.5]
    assert not shares[[2, 3]].any()
    assert shares[4, number("disgust")] == 1  # of what is left among the seven
    assert shares[5, number("fear")] == pytest.approx(0.6)


def write_faces(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        {"emotion": i % 7, "pixels": " ".join(map(str, rng.integers(256, size=2304))), "Usage": usage}
        for usage in ("Training", "PublicTest") for i in range(21)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "fer2013.csv", index=False)
    return folder / "fer2013.csv"


def test_faces_with_votes_have_their_labels(tmp_path: Path) -> None:
    source = write_faces(tmp_path)
    with pytest.raises(FileNotFoundError, match="no FER\\+ votes there; place fer2013new.csv"):
        load_faces(source, "test", labels="soft")
    given = [{"happiness": 6, "sadness": 4} if i % 3 else {"NF": 10} for i in range(42)]
    votes(*given).to_csv(tmp_path / "fer2013new.csv", index=False)
    for split in ("train", "val", "test"):
        hard, soft = load_faces(source, split), load_faces(source, split, labels="soft")
        rows = [int(path.split(":")[1]) - 2 for path in hard.paths]
        assert soft.paths == tuple(
            path for path, row in zip(hard.paths, rows, strict=True) if row % 3
        )
        image, shares = soft[0]
        assert image.size == (48, 48)
        assert shares.tolist() == pytest.approx([0, 0, 0, 0.6, 0, 0.4, 0])
        assert load_faces(source, split, labels="majority").labels.tolist() == [3] * len(soft)
        assert soft.subset([1])[0][1].tolist() == soft[1][1].tolist()
    with pytest.raises(
        ValueError, match="labels: expected one of hard, majority, soft, got 'mild'"
    ):
        load_faces(source, "test", labels="mild")


def test_votes_are_of_the_right_rows(tmp_path: Path) -> None:
    votes(*({"happiness": 10 - i, "fear": i} for i in range(5))).to_csv(
        tmp_path / "fer2013new.csv", index=False
    )
    found = votes_on(tmp_path, ["train/happy/fer0000003.png", "test/sad/fer0000000.png"])
    assert found["fear"].tolist() == [3, 0]
    found = votes_on(tmp_path / "fer2013.csv", ["fer2013.csv:2", "fer2013.csv:6"])
    assert found["fear"].tolist() == [0, 4]
    with pytest.raises(ValueError, match="has 5 rows, expected one for fer2013.csv:7"):
        votes_on(tmp_path / "fer2013.csv", ["fer2013.csv:7"])
    with pytest.raises(
        ValueError, match="files named fer0000000.png as in FER\\+, got train/happy/1.jpg"
    ):
        votes_on(tmp_path, ["train/happy/1.jpg"])
    (tmp_path / "fer2013new.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected FER\\+ votes, but it has no column Usage"):
        votes_on(tmp_path, ["fer0000000.png"])
