"""Segmentation models as ONNX, their size and their latency."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fervit_lib.evaluation.efficiency import CPU, count_macs, time_one
from fervit_lib.evaluation.export import TOLERANCE, onnx_call, onnx_difference
from fervit_lib.models import write_onnx
from fervit_lib.system import distributed
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import has_fast_bf16

WARM_UP = 2  # rounds that are not timed


def export_segmenter(model: nn.Module, path: Path, size: int) -> Path:
    """Write a U-Net as ONNX with a dynamic batch size.

    Its input is `images` (batch, 3, size, size), normalised; its output `logits`.
    """
    return write_onnx(model, torch.zeros(2, 3, size, size), "images", path)


def segmenter_difference(path: Path, model: nn.Module, images: Tensor) -> float:
    """Largest absolute difference between the logits of ONNX Runtime and of torch, on the CPU.

    Raises:
        ValueError: the difference is above 1e-4.
    """
    difference = onnx_difference(path, model, images)
    if not difference <= TOLERANCE:  # NaN, too
        raise ValueError(
            f"{path}: expected the logits of torch within {TOLERANCE}, got a difference of "
            f"{difference:.1e} in ONNX Runtime"
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
    """Measure size and latency of models for one image.

    Args:
        models: by name. The first is the reference of `speedup`.
        folder: for the ONNX files.
        size: side of the image, pixels.
        repeats: number of timed calls.

    Returns:
        One row per model and runtime (torch; torch bf16 where `device` is fast in it; ONNX
        Runtime): model, runtime, parameters, gmac, megabytes (of the ONNX file, float32), ms
        (median) and speedup over the first model in the same runtime.
    """
    images = torch.zeros(1, 3, size, size)
    on_device = images.to(device)
    costs = {}
    calls = {}
    for number, (name, model) in enumerate(models.items()):
        file = export_segmenter(model, folder / f"{number}.onnx", size)
        model.eval().to(device)
        costs[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "gmac": count_macs(model, on_device) / 1e9,
            "megabytes": file.stat().st_size / 1e6,
        }
        calls[name, "torch"] = _torch_call(model, on_device)
        if has_fast_bf16(device):
            calls[name, "torch bf16"] = _torch_call(model, on_device, bf16=True)
        calls[name, "ONNX Runtime"] = onnx_call(file, images, device)
    # The calls alternate, so that other load on the machine affects all of them.
    rounds = [
        [time_one(call, CPU) for call in calls.values()]
        for _ in progress(range(WARM_UP + repeats), desc="time", unit=" rounds")
    ]
    ms = dict(zip(calls, 1000 * np.median(rounds[WARM_UP:], axis=0), strict=True))
    reference = next(iter(models))
    return pd.DataFrame(
        {
            "model": name,
            "runtime": runtime,
            **costs[name],
            "ms": median,
            "speedup": ms[reference, runtime] / median,
        }
        for (name, runtime), median in ms.items()
    )


def _torch_call(model: nn.Module, images: Tensor, bf16: bool = False) -> Callable[[], object]:
    def call() -> None:
        autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=bf16)
        with torch.inference_mode(), autocast:
            model(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    return call
