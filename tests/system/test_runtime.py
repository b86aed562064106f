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


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5])
def test_a_seed_out_of_range_is_refused(seed: float) -> None:
    with pytest.raises(ValueError, match="seed: expected"):
        runtime.seed_everything(seed)


def test_paths_start_at_the_project_root(tmp_path: Path) -> None:
    assert runtime.resolve("pyproject.toml").is_file()
    assert runtime.resolve(tmp_path) == tmp_path
    assert runtime.display_path(runtime.PROJECT_ROOT / "reports" / "a") == "reports/a"
    assert runtime.display_path(tmp_path) == str(tmp_path)
    assert runtime.display_path("\udc8f.pt") == "\\udc8f.pt"


def test_only_the_cores_of_this_process_count() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})  # as a scheduler limits a job
        assert runtime.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert runtime.cpu_count() == len(before)


def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="device: expected"):
        runtime.get_device("gpu")
    present = torch.accelerator.current_accelerator(check_available=True)
    for name in {"cuda", "mps", "xla", "meta"} - {present.type if present else "cpu"}:
        with pytest.raises(ValueError, match=f"'{name}'.*device='auto'"):
            runtime.get_device(name)
    if present is None:
        assert runtime.get_device().type == "cpu"


def test_peak_memory_grows_with_a_tensor_and_is_reset() -> None:
    device = torch.device("cpu")
    runtime.reset_peak_memory(device)
    before = runtime.peak_memory(device)
    tensor = torch.ones(50_000_000)  # 0.2 GB
    assert 0.15 < runtime.peak_memory(device) - before < 0.3
    del tensor
    runtime.reset_peak_memory(device)
    assert runtime.peak_memory(device) - before < 0.1


def test_energy_is_of_gpus_only() -> None:
    assert runtime.gpu_energy(torch.device("cpu")) is None


def test_energy_is_in_joules_and_none_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    uuid = "01234567-89ab-cdef-0123-456789abcdef"
    properties = type("Properties", (), {"uuid": uuid})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", {f"GPU-{uuid}": "handle"}.get)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", {"handle": 2500}.get)
    assert runtime.gpu_energy(torch.device("cuda")) == 2.5

    def without_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", without_driver)
    assert runtime.gpu_energy(torch.device("cuda")) is None


def test_a_device_in_words() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert runtime.describe_device(torch.device("cpu")).startswith("cpu (1 thread")
        assert "threads" not in runtime.describe_device(torch.device("cpu"))
        torch.set_num_threads(2)
        assert runtime.describe_device(torch.device("cpu")).startswith("cpu (2 threads")
    finally:
        torch.set_num_threads(before)
