import itertools
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from fervit_lib.evaluation import efficiency, measure_run
from fervit_lib.evaluation.efficiency import count_macs


def test_macs_of_known_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16 * 16, 5)
    )
    expected = 16 * 16 * 8 * 3 * 9 + 8 * 16 * 16 * 5
    assert count_macs(model, torch.zeros(1, 3, 16, 16)) == expected


def test_macs_count_attention() -> None:
    class Attend(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert count_macs(Attend(), torch.zeros(1, 2, 10, 4)) == 2 * 2 * 10 * 10 * 4


@pytest.mark.parametrize(
    ("cores", "kept", "machine"), [([0.1, 9], 0.1, ""), ([2, 0.1], 0.1, ""), ([2, 3], 2, "busy")]
)
def test_times_on_a_busy_machine_are_repeated_once_and_marked(
    monkeypatch: pytest.MonkeyPatch, cores: list[float], kept: float, machine: str
) -> None:
    # The first reading of a pair is 0 at second 0, the second one is the cores at second 1.
    readings = iter([reading for used in cores for reading in (0.0, used)])
    seconds = itertools.cycle([0.0, 1.0])
    monkeypatch.setattr(efficiency, "cpu_of_others", lambda: next(readings))
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: next(seconds))
    for name in ("measure_model", "measure_end_to_end", "measure_training"):
        monkeypatch.setattr(efficiency, name, lambda *arguments: {})
    row = measure_run(Mock(variant="a"), Mock(), [])
    assert row == {"variant": "a", "others_cpu": kept, "machine": machine}


def test_the_own_cpu_time_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    others = efficiency.cpu_of_others()
    assert others >= 0 or np.isnan(others)
    times = efficiency.os.times()
    monkeypatch.setattr(efficiency.os, "times", lambda: (times[0] + 5, *times[1:]))
    assert others - efficiency.cpu_of_others() == pytest.approx(5, abs=4) or np.isnan(others)
