"""A clock that jumps: nothing is decided by it."""

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fastai.callback.core import Callback
from torch import nn

import fervit_lib
from fervit_lib.datasets import draw_toy_faces, load_faces
from tests.faults.conftest import encode_train, same_weights

LIBRARY = Path(fervit_lib.__file__).parent
ALLOWED = {"locks.py", "runs.py"}  # they say since when
IN_2040 = 2_208_988_800


def to_the_future(folder: Path) -> None:
    """As after a clock that went ahead was put right."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (IN_2040, IN_2040))


def test_only_what_is_shown_asks_what_time_it_is() -> None:
    for path in LIBRARY.rglob("*.py"):
        asked = {
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        times = {
            text
            for text in asked
            if text in ("time.time", "os.path.getmtime") or "st_mtime" in text
        }
        times |= {
            text for text in asked if text in ("datetime.now", "datetime.today", "datetime.utcnow")
        }
        assert not times or (times == {"datetime.now"} and path.name in ALLOWED), (
            f"{path.name}: {times}"
        )


def test_a_fit_goes_on_from_a_state_of_the_future(
    fit: Callable[..., nn.Module], tmp_path: Path
) -> None:
    class BreakOff(Callback):
        def before_epoch(self) -> None:
            if self.epoch == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", BreakOff())
    to_the_future(tmp_path / "run")
    assert same_weights(fit(tmp_path / "run"), fit(tmp_path / "whole"))


def test_nothing_is_made_again_because_of_a_date(tmp_path: Path) -> None:
    faces = draw_toy_faces(tmp_path / "toy", 28, 32)
    made = encode_train(faces, tmp_path / "codes")
    assert made == len(load_faces(faces, "train"))
    to_the_future(faces)
    assert encode_train(faces, tmp_path / "codes") == 0
    to_the_future(tmp_path / "codes")
    drawn = {
        path: path.stat().st_ino for path in draw_toy_faces(tmp_path / "toy", 28, 32).rglob("*.png")
    }
    assert drawn == {path: path.stat().st_ino for path in faces.rglob("*.png")}
