"""A student as it ships: ONNX, its size and its speed beside the teacher's."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import onnxruntime
import pandas as pd
import torch
from torch import Tensor, nn

from fervit_lib.evaluation.efficiency import count_macs
from fervit_lib.evaluation.export import TOLERANCE, onnx_difference, write_onnx
from fervit_lib.system import distributed
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import has_fast_bf16

WARM_UP = 2


def export_segmenter(model: nn.Module, path: Path, size: int) -> Path:
    """Write a U-Net; the batch size is free. Input `images` (batch, 3, S, S), normalised; output `logits`."""
    return write_onnx(model, torch.zeros(2, 3, size, size), "images", path)


def segmenter_difference(path: Path, model: nn.Module, images: Tensor) -> float:
    """Largest absolute difference between ONNX Runtime's and torch's logits, on the CPU.

    Raises:
        ValueError: it is above 1e-4.
    """
    if not (difference := onnx_difference(path, model, images)) <= TOLERANCE:
        raise ValueError(
            f"{path}: ONNX Runtime differs from torch by {difference:.1e}, expected {TOLERANCE} at most"
        )
    return difference


@distributed.rank_zero_only
def measure_segmenters(
    models: Mapping[str, nn.Module],
    folder: Path,
    size: int,
    device: torch.device,
    repeats: int = 15,
) -> pd.DataFrame:
    """How large and how fast models are, on one image, measured in turns in one run.

    Args:
        models: by name; the first is what the others are compared with. Each is written to `folder` as ONNX.

    Returns:
        A row a model and runtime (torch; torch bf16 where `device` is fast in it; ONNX Runtime): model, runtime,
        parameters, gmac, megabytes (of the ONNX file, float32), ms (median) and speedup over the first model in the
        same runtime.
    """
    images = torch.zeros(1, 3, size, size)
    files = {
        name: export_segmenter(model, folder / f"{i}.onnx", size)
        for i, (name, model) in enumerate(models.items())
    }
    ways: dict[tuple[str, str], Callable[[], object]] = {}
    for name, model in models.items():
        model.eval().to(device)
        ways[name, "torch"] = _torch_way(model, images.to(device))
        if has_fast_bf16(device):
            ways[name, "torch bf16"] = _torch_way(model, images.to(device), bf16=True)
        ways[name, "ONNX Runtime"] = _onnx_way(files[name], images, device)
    ms = _median_ms(ways, repeats)
    first = next(iter(models))
    gmac = {name: count_macs(model, images.to(device)) / 1e9 for name, model in models.items()}
    return pd.DataFrame(
        {
            "model": name,
            "runtime": runtime,
            "parameters": sum(p.numel() for p in models[name].parameters()),
            "gmac": gmac[name],
            "megabytes": files[name].stat().st_size / 1e6,
            "ms": taken,
            "speedup": ms[first, runtime] / taken,
        }
        for (name, runtime), taken in ms.items()
    )


def _median_ms(
    ways: Mapping[tuple[str, str], Callable[[], object]], repeats: int
) -> dict[tuple[str, str], float]:
    """Milliseconds of each call, all in turns, so that what else the machine does falls on all alike."""
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for number in progress(range(WARM_UP + repeats), desc="time", unit=" rounds"):
        for way, call in ways.items():
            started = time.perf_counter()
            call()
            if number >= WARM_UP:
                seconds[way].append(time.perf_counter() - started)
    return {way: 1000 * statistics.median(taken) for way, taken in seconds.items()}


def _torch_way(model: nn.Module, images: Tensor, bf16: bool = False) -> Callable[[], object]:
    def call() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(images.device.type, torch.bfloat16, enabled=bf16),
        ):
            model(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    return call


def _onnx_way(path: Path, images: Tensor, device: torch.device) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    session = onnxruntime.InferenceSession(
        str(path), options, providers=[*providers, "CPUExecutionProvider"]
    )
    return lambda: session.run(["logits"], {"images": images.numpy()})
