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


@pytest.mark.parametrize("drawn_before", [False, True])
def test_photographs_are_never_overwritten(tmp_path: Path, drawn_before: bool) -> None:
    folder = tmp_path / "mine"
    if drawn_before:
        draw_toy_faces(folder, 28)
    photograph = folder / "train" / "happy" / "holiday.jpg"
    photograph.parent.mkdir(parents=True, exist_ok=True)
    photograph.write_bytes(b"precious")
    with pytest.raises(ValueError, match="mine: .*choose another folder"):
        draw_toy_faces(folder, 35)
    assert photograph.read_bytes() == b"precious"


@pytest.mark.parametrize("damaged", ["", "[]", "{", "\x00", '{"generator": "toy fades"}'])
def test_a_damaged_record_is_named_and_no_picture_is_lost(tmp_path: Path, damaged: str) -> None:
    folder = draw_toy_faces(tmp_path / "toy", 28)
    (folder / "SYNTHETIC.json").write_text(damaged)
    with pytest.raises(ValueError, match=r"toy: .*SYNTHETIC\.json"):
        draw_toy_faces(folder, 35)
    assert len(list(folder.rglob("*.png"))) == 28
