"""What a prediction costs: operations, time, memory and energy."""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fervit_lib.evaluation.predict import Predictor
from fervit_lib.runs import Run
from fervit_lib.system.runtime import gpu_energy, host_peak_memory, peak_memory, reset_peak_memory

WARM_UP = 5
REPEATS = 50
BATCHES = (1, 8, 32, 128, 512)
BUSY = 0.2  # cores that other processes use, from which on times are measured again
CPU = torch.device("cpu")


def count_macs(model: nn.Module, inputs: Tensor) -> int:
    """Multiply-accumulate operations of matrix products and convolutions in a forward pass."""
    # torch's counter does not know fused attention on a CPU; the math backend is two products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(inputs)
    return counter.get_total_flops() // 2


def time_calls(call: Callable[[], Any], device: torch.device, repeats: int) -> np.ndarray:
    """Seconds of up to `repeats` calls after a warm-up: at least 3, then none after 2 seconds, and
    in any case none after 10, as a pSp encoder on a CPU takes for a few faces.

    On a GPU they are measured by its own events, elsewhere by the clock.
    """
    for _ in range(WARM_UP if repeats > 3 else 1):
        call()
    times: list[float] = []
    while len(times) < repeats and sum(times) < (10 if len(times) < 3 else 2):
        times.append(time_one(call, device))
    return np.array(times)


def time_one(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    # A call only queues its kernels and returns before they run. Events are queued with them, so
    # the time ends with the last kernel, and does not include that the host notices it.
    stream = torch.cuda.current_stream(device)  # else the events are of the first GPU
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(stream)
    call()
    end.record(stream)
    end.synchronize()
    return begin.elapsed_time(end) / 1000  # from milliseconds


def latency(
    call: Callable[[], Any], device: torch.device, name: str = "latency"
) -> dict[str, float]:
    """Median and 95th percentile of a call's time: `<name>_p50_ms` and `<name>_p95_ms`."""
    milliseconds = 1000 * time_calls(call, device, REPEATS)
    return {
        f"{name}_p50_ms": float(np.median(milliseconds)),
        f"{name}_p95_ms": float(np.quantile(milliseconds, 0.95)),
    }


@torch.inference_mode()
def measure_model(predictor: Predictor, inputs: Tensor) -> dict[str, float | None]:
    """Latency and throughput of the model alone, with its inputs on the device.

    Args:
        inputs: (N, …), as the model takes them; repeated to fill the largest batch.

    Returns:
        macs; latency_p50_ms and latency_p95_ms at batch 1; throughput (faces/s) and best_batch,
        the best of `BATCHES`; peak host_memory_gb (of the process) and gpu_memory_gb;
        joules_per_face if the GPU reports its energy.
    """
    device = predictor.device
    model = predictor.model.eval().to(device)
    one = inputs[:1].to(device)
    row: dict[str, float | None] = {"macs": count_macs(model, one)}
    row |= latency(partial(model, one), device)
    reset_peak_memory(device)
    best = 0.0
    best_batch = one
    for size in BATCHES:
        batch = inputs[torch.arange(size) % len(inputs)].to(device)
        seconds = float(np.median(time_calls(partial(model, batch), device, 3)))
        rate = size / seconds
        saturated = rate <= 1.1 * best or seconds > 2
        if rate > best:
            best = rate
            best_batch = batch
        if saturated:
            break  # larger batches only take longer
    return row | {
        "throughput": best,
        "best_batch": len(best_batch),
        "host_memory_gb": host_peak_memory(),
        "gpu_memory_gb": peak_memory(device) if device.type == "cuda" else None,
        "joules_per_face": _energy(partial(model, best_batch), len(best_batch), device),
    }


def _energy(call: Callable[[], Any], faces: int, device: torch.device) -> float | None:
    """Joules per face of the whole GPU, over about one second of calls; None if not reported."""
    before = gpu_energy(device)
    if before is None:
        return None
    calls = 0
    started = time.perf_counter()
    while time.perf_counter() - started < 1:
        call()
        calls += 1
        torch.cuda.synchronize(device)  # only a GPU reports its energy
    after = gpu_energy(device)
    return None if after is None else (after - before) / (calls * faces)


def measure_end_to_end(predictor: Predictor, images: Sequence[Image.Image]) -> dict[str, float]:
    """Time from an image file to its label, encoder included.

    Args:
        images: some faces; they are first written as PNG files to a temporary folder.

    Returns:
        whole_p50_ms and whole_p95_ms of one file, whole_throughput (faces/s) of all files at once.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(len(images))]
        for image, file in zip(images, files, strict=True):
            image.save(file)
        next_file = itertools.cycle(files).__next__
        # Timed on the host: predict() returns when the label has arrived there.
        row = latency(lambda: predictor.predict([next_file()]), CPU, "whole")
        all_files = time_calls(lambda: predictor.predict(files), CPU, 3)
    return row | {"whole_throughput": len(files) / float(np.median(all_files))}


def measure_training(run: Run) -> dict[str, float]:
    """Costs that a run's own files record: checkpoint_mb, epochs, seconds_per_epoch (mean)."""
    result = run.result
    return {
        "checkpoint_mb": run.best_checkpoint.stat().st_size / 1e6,
        "epochs": result["epochs"],
        "seconds_per_epoch": result["train_seconds"] / result["epochs"],
    }


def measure_run(run: Run, predictor: Predictor, images: Sequence[Image.Image]) -> dict:
    """All costs of a run as one row: its training, its model alone, and from file to label.

    `others_cpu` is the number of cores that other processes used meanwhile. If they used more than
    `BUSY`, the times are measured once more and the quieter measurement is kept; `machine` is
    "busy" if that was not quiet either, else empty.
    """
    inputs = predictor.inputs(images[:128])
    attempts: list[dict] = []
    while len(attempts) < 2 and all(row["machine"] == "busy" for row in attempts):
        started, before = time.perf_counter(), cpu_of_others()
        row = measure_model(predictor, inputs) | measure_end_to_end(predictor, images[:32])
        cores = (cpu_of_others() - before) / (time.perf_counter() - started)
        attempts.append(row | {"others_cpu": cores, "machine": "busy" if cores > BUSY else ""})
    quietest = min(attempts, key=lambda row: row["others_cpu"])
    return {"variant": run.variant, **measure_training(run), **quietest}


def cpu_of_others() -> float:
    """Seconds of CPU that processes other than this one have used so far; NaN if not Linux."""
    try:
        cores = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except FileNotFoundError:
        return float("nan")
    user, nice, system, _, _, irq, softirq, steal = map(int, cores[:8])
    all_processes = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return all_processes - sum(os.times()[:4])
