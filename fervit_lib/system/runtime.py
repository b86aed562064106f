"""Where code runs: project paths, seeds, device and precision."""

import contextlib
import ctypes
import os
import random
import resource
from pathlib import Path

import numpy as np
import torch

from fervit_lib.system import distributed

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def resolve(path: str | Path) -> Path:
    """Absolute form of `path`; a relative one is taken from the project root, wherever the notebook was started."""
    return PROJECT_ROOT / Path(path).expanduser()


def display_path(path: str | Path) -> str:
    """`path` as reports show it: relative to the project root where it lies inside, absolute elsewhere."""
    path = Path(path)
    return str(path.relative_to(PROJECT_ROOT)) if path.is_relative_to(PROJECT_ROOT) else str(path)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices) and ask for deterministic kernels.

    The same seed gives the same result bit for bit on one CPU with the same number of threads. On a GPU a few
    operations have no deterministic kernel; torch then warns and runs the fast one.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected an integer in [0, 2**32), got {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else torch fills all new memory first, to show who reads it unwritten: a fifth of an encoder's time on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # cuBLAS is only deterministic with a fixed workspace, and reads this when its first handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def cpu_count() -> int:
    """Processors that this process may use: a scheduler's share of them, where there is one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_device(name: str = "auto") -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU; any torch device string is taken as it is.

    In a launch of several processes on a machine, `auto` and `cuda` are a GPU for each.

    Raises:
        ValueError: `name` is no device, or asks for a GPU that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device: expected auto, cpu, cuda or another of torch's, got {name!r}"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: {name!r} was asked for, but torch sees no GPU; use device='auto' or 'cpu'"
        )
    if device == torch.device("cuda") and distributed.world_size() > 1:
        device = torch.device("cuda", distributed.local_rank())
        torch.cuda.set_device(device)
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is real speed on `device`: Ampere and later, or a CPU with instructions for it.

    On a CPU with AVX512_BF16 alone, without AMX, ResNet-18 trains 1.9 times and ViT-tiny 1.3 times as fast as in
    float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether a `precision` of auto, float32, bf16 or fp16 means bf16 on `device`."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


def describe_device(device: torch.device) -> str:
    """One line for reports, e.g. `cuda (NVIDIA H200)`, `4 x cuda (NVIDIA H200)` or `cpu (2 threads, fast bf16)`."""
    many = f"{distributed.world_size()} x " if distributed.world_size() > 1 else ""
    if device.type == "cuda":
        return f"{many}cuda ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{many}{device.type} ({threads} thread{'s'[: threads != 1]}{', fast bf16' if has_fast_bf16(device) else ''})"


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` start anew; where the system cannot, it goes on since the start of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # Linux: forget the largest resident size so far


def peak_memory(device: torch.device) -> float:
    """Most memory used so far, GB: of `device` where it is a GPU, else of this process."""
    return (
        torch.cuda.max_memory_allocated(device) / 1e9
        if device.type == "cuda"
        else host_peak_memory()
    )


def host_peak_memory() -> float:
    """Most memory that this process had in use since its start, or since `reset_peak_memory` on Linux, GB."""
    try:
        [line] = [
            x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")
        ]
        return int(line.split()[1]) * 1024 / 1e9
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def gpu_energy(device: torch.device) -> float | None:
    """Joules a GPU has used since its driver was loaded; None where no driver tells."""
    if device.type != "cuda":
        return None
    try:
        nvml, handle, millijoules = (
            ctypes.CDLL("libnvidia-ml.so.1"),
            ctypes.c_void_p(),
            ctypes.c_ulonglong(),
        )
    except OSError:
        return None
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    failed = (
        nvml.nvmlInit_v2()
        or nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle))
        or nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
    )
    return None if failed else millijoules.value / 1000
