"""A small `make soak`: a training and a sweep that are killed a few times, and a few flips."""

from pathlib import Path

import pytest

from tests.faults.flips import KINDS
from tests.faults.soak import soak
from tests.faults.steps import STEPS


@pytest.mark.slow
@pytest.mark.notebooks
@pytest.mark.launched
def test_a_few_kills_and_flips_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    steps = [step for step in STEPS if step.name in ("gradual", "sweep")]
    soak(tmp_path, kills=4, flips=len(KINDS), seed=1, steps=steps)
    printed = capsys.readouterr().out
    assert "4 kills" in printed
    assert f"{len(KINDS)} flips" in printed
