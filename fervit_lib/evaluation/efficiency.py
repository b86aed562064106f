"""What a reading costs: operations, bytes, time, memory and energy."""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fervit_lib.evaluation.predict import Predictor
from fervit_lib.runs import Run
from fervit_lib.system.runtime import gpu_energy, host_peak_memory, peak_memory, reset_peak_memory

WARM_UP = 5
BATCHES = (1, 8, 32, 128, 512)


def count_macs(model: nn.Module, inputs: Tensor) -> int:
    """Multiply-accumulate operations of one forward pass of `inputs`, of matrix products and convolutions."""
    # Fused attention on a CPU is unknown to torch's counter; written out it is two matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(inputs)
    return counter.get_total_flops() // 2


def time_calls(
    call: Callable[[], Any], device: torch.device, repeats: int, limit: float = 2.0
) -> np.ndarray:
    """Seconds of each of `repeats` calls after a warm-up, by device events on a GPU; fewer after `limit` seconds."""
    for _ in range(WARM_UP if repeats > 3 else 1):
        call()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < repeats and (len(times) < 3 or time.perf_counter() - started < limit):
        times.append(_time_one(call, device))
    return np.array(times)


def _time_one(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1000


@torch.inference_mode()
def measure_model(
    predictor: Predictor, inputs: Tensor, repeats: int = 50
) -> dict[str, float | None]:
    """Latency and throughput of the model alone, its input on the device.

    Args:
        inputs: (N, …) as the model takes them; repeated up to the largest batch.

    Returns:
        macs; latency_p50_ms, latency_p95_ms at batch 1; throughput (faces a second) and batch at the best of
        `BATCHES`; peak host_memory_gb (of this whole process) and gpu_memory_gb; joules_per_face where the GPU tells.
    """
    device, model = predictor.device, predictor.model.eval().to(predictor.device)
    inputs = inputs.float() if inputs.dtype == torch.float16 else inputs
    one = inputs[:1].to(device)
    found: dict[str, float | None] = {"macs": count_macs(model, one)}
    single = 1000 * time_calls(lambda: model(one), device, repeats)
    found |= {
        "latency_p50_ms": float(np.median(single)),
        "latency_p95_ms": float(np.quantile(single, 0.95)),
    }
    reset_peak_memory(device)
    best, best_batch = 0.0, one
    for size in BATCHES:
        batch = inputs[torch.arange(size) % len(inputs)].to(device)
        rate = size / float(np.median(time_calls(partial(model, batch), device, 3)))
        gained = rate > 1.1 * best
        if rate > best:
            best, best_batch = rate, batch
        if not gained:
            break  # the device is busy: larger batches only take longer
    found |= {
        "throughput": best,
        "best_batch": len(best_batch),
        "host_memory_gb": host_peak_memory(),
    }
    found["gpu_memory_gb"] = peak_memory(device) if device.type == "cuda" else None
    return found | {"joules_per_face": _energy(lambda: model(best_batch), len(best_batch), device)}


def _energy(
    call: Callable[[], Any], faces: int, device: torch.device, seconds: float = 1.0
) -> float | None:
    """Joules a face over about a second of calls, of the whole GPU; None where nothing counts them."""
    before = gpu_energy(device)
    if before is None:
        return None
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        call()
        calls += 1
        torch.cuda.synchronize(device)
    after = gpu_energy(device)
    return None if after is None else (after - before) / (calls * faces)


def measure_end_to_end(
    predictor: Predictor, images: Sequence[Image.Image], repeats: int = 20
) -> dict[str, float]:
    """From an image file to a label: whole_p50_ms and whole_p95_ms a face, and whole_throughput of all files at once.

    Args:
        images: some faces; they are written as PNG files of a temporary folder first.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(len(images))]
        for image, file in zip(images, files, strict=True):
            image.save(file)
        remaining = iter(files * (repeats + WARM_UP))
        host = torch.device("cpu")  # the label is on the host: a call ends when it is there
        single = 1000 * time_calls(lambda: predictor.predict([next(remaining)]), host, repeats)
        together = time_calls(lambda: predictor.predict(files), host, 3)
    return {
        "whole_p50_ms": float(np.median(single)),
        "whole_p95_ms": float(np.quantile(single, 0.95)),
        "whole_throughput": len(files) / float(np.median(together)),
    }


def measure_training(run: Run) -> dict[str, float]:
    """What the run's own files say: checkpoint_mb, epochs and seconds_per_epoch (median)."""
    seconds = pd.read_csv(run.folder / "metrics.csv")["seconds"]
    return {
        "checkpoint_mb": run.best_checkpoint.stat().st_size / 1e6,
        "epochs": len(seconds),
        "seconds_per_epoch": float(seconds.median()),
    }


def measure_run(run: Run, predictor: Predictor, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """All costs of a run as one row: variant, and what `measure_training`, `_model` and `_whole_way` say."""
    row: dict[str, Any] = {"variant": run.variant} | measure_training(run)
    row |= measure_model(predictor, predictor.inputs(pictures[:128]))
    return row | measure_end_to_end(predictor, pictures[:32])


def measure_onnx(path: Path, inputs: Tensor, repeats: int = 50) -> dict[str, float]:
    """Latency of an ONNX file at batch 1 in ONNX Runtime on the CPU: latency_p50_ms, latency_p95_ms."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: inputs[:1].numpy()}
    times = 1000 * time_calls(lambda: session.run(None, feed), torch.device("cpu"), repeats)
    return {
        "latency_p50_ms": float(np.median(times)),
        "latency_p95_ms": float(np.quantile(times, 0.95)),
    }
