import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fervit_lib.system import runtime


def test_one_seed_for_all_generators() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    runtime.seed_everything(1)
    first = draw()
    runtime.seed_everything(1)
    assert draw() == first
    runtime.seed_everything(2)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        runtime.seed_everything(seed)


def test_paths_start_at_the_project_root(tmp_path: Path) -> None:
    assert (runtime.resolve("pyproject.toml")).is_file()
    assert runtime.resolve(tmp_path) == tmp_path
    assert runtime.display_path(runtime.PROJECT_ROOT / "reports" / "a") == "reports/a"
    assert runtime.display_path(tmp_path) == str(tmp_path)


def test_only_the_processors_of_this_process_count() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})  # as a scheduler binds a job
        assert runtime.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert runtime.cpu_count() == len(before)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert runtime.get_device().type == "cpu"
    with pytest.raises(ValueError, match="device='auto'"):
        runtime.get_device("cuda")
