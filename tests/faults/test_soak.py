"""A small `make soak`: a training and a sweep that are killed a few times."""

from pathlib import Path

import pytest

from tests.faults.soak import STEPS, soak


@pytest.mark.slow
@pytest.mark.notebooks
@pytest.mark.launched
def test_a_few_kills_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    steps = [step for step in STEPS if step.name in ("train", "sweep")]
    soak(tmp_path, kills=4, seed=1, steps=steps)
    assert "4 kills" in capsys.readouterr().out
