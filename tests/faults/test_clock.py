"""Nothing depends on the clock, so a clock that jumps changes nothing."""

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
# When a run, or an epoch, began and ended.
ALLOWED = {"__main__.py", "callbacks.py", "locks.py", "run.py", "runs.py"}
# Whether a file is the one that was hashed: content.py never remembers files newer than the clock,
# identity.py remembers nothing longer than its process.
IDENTITY = {"content.py": {"stat.st_mtime_ns"}, "identity.py": {"stat.st_mtime_ns"}}
IN_2040 = 2_208_988_800


def to_the_future(folder: Path) -> None:
    """Set all times as a clock does that runs ahead and is corrected later."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (IN_2040, IN_2040))


def test_only_displayed_times_are_read() -> None:
    clocks = {"time.time", "os.path.getmtime", "datetime.now", "datetime.today", "datetime.utcnow"}
    for path in LIBRARY.rglob("*.py"):
        attributes = {
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        used = {name for name in attributes if name in clocks or "st_mtime" in name}
        if path.name in ALLOWED:
            used -= {"datetime.now"}
        used -= IDENTITY.get(path.name, set())
        assert not used, f"{path.name}: {used}"


def test_a_fit_resumes_from_a_state_of_the_future(
    fit: Callable[..., nn.Module], tmp_path: Path
) -> None:
    class Interrupt(Callback):
        def before_epoch(self) -> None:
            if self.epoch == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", Interrupt())
    to_the_future(tmp_path / "run")
    assert same_weights(fit(tmp_path / "run"), fit(tmp_path / "whole"))


def test_nothing_is_encoded_or_drawn_again_because_of_a_date(tmp_path: Path) -> None:
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
