import json
from pathlib import Path

import pytest

from fervit_lib.datasets import draw_toy_faces


def test_a_drawn_set_is_left_unchanged_and_one_of_other_arguments_goes_beside_it(
    tmp_path: Path,
) -> None:
    folder = draw_toy_faces(tmp_path / "toy", 28)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    draw_toy_faces(folder, 28)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before
    other = draw_toy_faces(folder, 35)
    assert draw_toy_faces(folder, 35) == other != folder
    assert json.loads((other / "SYNTHETIC.json").read_text())["num_faces"] == 35
    assert len(list(other.rglob("*.png"))) == 35
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before


def photograph_in(folder: Path) -> Path:
    photograph = folder / "train" / "happy" / "holiday.jpg"
    photograph.parent.mkdir(parents=True, exist_ok=True)
    photograph.write_bytes(b"precious")
    return photograph


def test_photographs_are_never_overwritten(tmp_path: Path) -> None:
    photograph = photograph_in(tmp_path / "mine")
    with pytest.raises(ValueError, match="mine: .*choose another folder"):
        draw_toy_faces(tmp_path / "mine", 35)
    assert photograph.read_bytes() == b"precious"


def test_photographs_in_a_drawn_set_are_never_overwritten(tmp_path: Path) -> None:
    folder = draw_toy_faces(tmp_path / "mine", 28)
    photograph = photograph_in(folder)
    other = draw_toy_faces(folder, 35)
    assert other != folder and len(list(other.rglob("*.png"))) == 35
    assert photograph.read_bytes() == b"precious"
    assert len(list(folder.rglob("*.png"))) == 28


@pytest.mark.parametrize("damaged", ["", "[]", "{", "\x00", '{"generator": "toy fades"}'])
def test_a_damaged_record_is_named_and_no_picture_is_lost(tmp_path: Path, damaged: str) -> None:
    folder = draw_toy_faces(tmp_path / "toy", 28)
    (folder / "SYNTHETIC.json").write_text(damaged)
    with pytest.raises(ValueError, match=r"toy: .*SYNTHETIC\.json"):
        draw_toy_faces(folder, 35)
    assert len(list(folder.rglob("*.png"))) == 28
