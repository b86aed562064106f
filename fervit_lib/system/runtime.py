"""Project paths, seeds, devices, precision and memory."""

import os
import random
import re
import resource
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from fervit_lib.system import distributed
from fervit_lib.system.names import PROJECT_ROOT, escape


def resolve(path: str | Path) -> Path:
    """Absolute form of `path`; a relative path starts at the project root, not at the notebook."""
    return PROJECT_ROOT / Path(path).expanduser()


def display_path(path: str | Path) -> str:
    """`path` for messages and reports: relative to the project root if inside it, else absolute."""
    path = Path(path)
    inside = path.is_relative_to(PROJECT_ROOT)
    return escape(path.relative_to(PROJECT_ROOT) if inside else path)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices) and use deterministic kernels.

    On a CPU with the same number of threads, the same seed gives the same result bit for bit. On a
    GPU, some operations have no deterministic kernel: torch then warns and uses the other one.

    Raises:
        ValueError: `seed` is not an integer in [0, 2**32).
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected an integer in [0, 2**32), got {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # By default, deterministic mode also fills all new memory, which only helps to find reads of
    # uninitialised memory and takes a fifth of an encoder's time on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # cuBLAS needs a fixed workspace to be deterministic; it reads this when it creates a handle.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def cpu_count() -> int:
    """Number of cores that this process may use: its share if a scheduler limits it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_device(name: str = "auto") -> torch.device:
    """The torch device called `name`; `auto` is the first GPU if there is one, else the CPU.

    If several processes were launched on this machine, `auto` and `cuda` give each its own GPU.

    Raises:
        ValueError: `name` is not a device, or is a GPU, or another accelerator, that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device: expected auto, cpu, cuda or another torch device, got {name!r}"
        ) from error
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device.type not in ("cpu", accelerator.type if accelerator else "cpu"):
        raise ValueError(
            f"device: got {name!r}, but torch finds {accelerator or 'no GPU'}; use device='auto' "
            f"or 'cpu'"
        )
    if device == torch.device("cuda") and distributed.world_size() > 1:
        # The number of this process among those on the same machine: without an index, all would
        # share the first GPU.
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 on `device`: a GPU from Ampere on, or a CPU with bf16.

    On a CPU with AVX512_BF16 but without AMX, ResNet-18 trains 1.9 times and ViT-tiny 1.3 times as
    fast as in float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # With ATEN_CPU_CAPABILITY=avx2, torch emulates bf16, ten times as slow as float32.
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return False
    # torch has no public function for this.
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether `precision` (auto, float32, bf16 or fp16) stands for bf16 on `device`."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


def describe_device(device: torch.device) -> str:
    """`device` in words: `cuda (NVIDIA H200)`, `4 x cuda (NVIDIA H200)`, `cpu (2 threads)`, …"""
    count = f"{distributed.world_size()} x " if distributed.world_size() > 1 else ""
    if device.type == "cuda":
        return f"{count}cuda ({torch.cuda.get_device_name(device)})"
    num_threads = torch.get_num_threads()
    threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    bf16 = ", fast bf16" if has_fast_bf16(device) else ""
    return f"{count}{device.type} ({threads}{bf16})"


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peaks of `peak_memory` and, on Linux, of `host_peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets the peak resident size


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process in GB: on `device` if it is a GPU, else in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return host_peak_memory()


def host_peak_memory() -> float:
    """Peak resident memory of this process in GB."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    [kilobytes] = re.findall(r"VmHWM:\s*(\d+) kB", status)
    return int(kilobytes) * 1024 / 1e9


def gpu_energy(device: torch.device) -> float | None:
    """Energy in joules that a GPU has used since its driver was loaded; None if not available."""
    if device.type != "cuda":
        return None
    import pynvml  # imported here, because only GPU runs need it

    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except pynvml.NVMLError:  # no driver, or a GPU without a meter
        return None
