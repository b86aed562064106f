"""A student as it ships: ONNX, its size and its speed beside the teacher's."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import onnxruntime
import pandas as pd
import torch
from torch import Tensor, nn

from fervit_lib import ranks
from fervit_lib.evaluation.efficiency import count_macs
from fervit_lib.evaluation.export import TOLERANCE, difference_from_torch, write_onnx
from fervit_lib.progress import progress


def export_segmenter(model: nn.Module, path: Path, size: int) -> Path:
    """Write a U-Net; the batch size is free. Input `images` (batch, 3, S, S), normalised; output `logits`."""
    return write_onnx(model, torch.zeros(2, 3, size, size), "images", path)


def segmenter_difference(path: Path, model: nn.Module, images: Tensor) -> float:
    """Largest absolute difference between ONNX Runtime's and torch's logits, on the CPU.

    Raises:
        ValueError: it is above 1e-4.
    """
    if not (difference := difference_from_torch(path, model, images)) <= TOLERANCE:
        raise ValueError(f"{path}: ONNX Runtime differs from torch by {difference:.1e}, expected {TOLERANCE} at most")
    return difference


@ranks.once
def measure_segmenters(
    models: Mapping[str, nn.Module], folder: Path, size: int, device: torch.device, repeats: int = 15
) -> pd.DataFrame:
    """`size_and_latency` of models in torch, and as ONNX files that are written to `folder`."""
    files = [export_segmenter(model, folder / f"{i}.onnx", size) for i, model in enumerate(models.values())]
    return size_and_latency(
        dict(zip(models, zip(models.values(), files, strict=True), strict=True)), size, device, repeats
    )


def size_and_latency(
    models: Mapping[str, tuple[nn.Module, Path]], size: int, device: torch.device, repeats: int = 15
) -> pd.DataFrame:
    """How large and how fast models are, on one image, measured in turns in one run.

    Args:
        models: by name, as torch and as ONNX; the first is what the others are compared with.

    Returns:
        A row a model and runtime: model, runtime, parameters, gmac, megabytes (of the ONNX file, float32), ms (median)
        and speedup over the first model in the same runtime.
    """
    images = torch.zeros(1, 3, size, size)
    ways: dict[tuple[str, str], Callable[[], object]] = {}
    for name, (model, path) in models.items():
        ways[name, "torch"] = _torch_way(model.eval().to(device), images.to(device))
        ways[name, "ONNX Runtime"] = _onnx_way(path, images, device)
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for number in progress(range(2 + repeats), desc="time", unit=" rounds"):
        for way, call in ways.items():
            started = time.perf_counter()
            call()
            if number >= 2:
                seconds[way].append(time.perf_counter() - started)
    first = next(iter(models))
    rows = []
    for (name, runtime), taken in seconds.items():
        model, path = models[name]
        rows.append(
            {
                "model": name,
                "runtime": runtime,
                "parameters": sum(p.numel() for p in model.parameters()),
                "gmac": count_macs(model.eval(), images.to(device)) / 1e9,
                "megabytes": path.stat().st_size / 1e6,
                "ms": 1000 * statistics.median(taken),
                "speedup": statistics.median(seconds[first, runtime]) / statistics.median(taken),
            }
        )
    return pd.DataFrame(rows)


def _torch_way(model: nn.Module, images: Tensor) -> Callable[[], object]:
    def call() -> None:
        with torch.inference_mode():
            model(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    return call


def _onnx_way(path: Path, images: Tensor, device: torch.device) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    session = onnxruntime.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    return lambda: session.run(["logits"], {"images": images.numpy()})
