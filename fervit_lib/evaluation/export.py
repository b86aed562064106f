"""Trained models as ONNX files, alone or behind their encoder, checked against torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from fervit_lib.encoders import images_to_tensor
from fervit_lib.evaluation.efficiency import CPU, latency
from fervit_lib.evaluation.predict import Predictor
from fervit_lib.models import write_onnx
from fervit_lib.system.errors import describe_error
from fervit_lib.system.progress import progress

TOLERANCE = 1e-4  # of logits; ONNX Runtime sums float32 in another order
_COLUMNS = [
    "what",
    "file",
    "mb",
    "difference",
    "agrees",
    "latency_p50_ms",
    "latency_p95_ms",
    "reason",
]


class EncoderAndModel(nn.Module):
    """Images (B, 3, S, S) in [0, 1] at the encoder's size → logits (B, num_classes)."""

    def __init__(self, encoder: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.encoder(2 * images - 1))


def onnx_call(path: Path, inputs: Tensor, device: torch.device = CPU) -> Callable[[], Any]:
    """A call of an ONNX file with `inputs`, for ONNX Runtime on `device`; returns its outputs."""
    options = onnxruntime.SessionOptions()
    # As many threads as torch; by default ONNX Runtime starts one per core of the machine.
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    feed = {session.get_inputs()[0].name: inputs.cpu().numpy()}
    return lambda: session.run(None, feed)


def onnx_difference(path: Path, model: nn.Module, inputs: Tensor) -> float:
    """Largest absolute difference between ONNX Runtime's and torch's logits, on the CPU.

    Args:
        inputs: (N, …) float32, as the ONNX file takes them.
    """
    device = next(model.parameters()).device
    with torch.inference_mode():
        expected = model.eval().cpu()(inputs.cpu()).numpy()
    model.to(device)
    [logits] = onnx_call(path, inputs)()
    return float(np.abs(logits - expected).max())


def export_run(predictor: Predictor, folder: Path, images: Sequence[Image.Image]) -> pd.DataFrame:
    """Write a run's model as ONNX, also behind the encoder if it takes codes, and check the files.

    Inputs are `w_plus` (batch, 18, 512), or `images` (batch, 3, S, S) in [0, 1]; float32.

    Args:
        images: at least 2 faces of any size, on which ONNX Runtime and torch are compared.

    Returns:
        One row per file: what, file, mb, difference (the largest, of logits), agrees (within
        1e-4), latency_p50_ms and latency_p95_ms at batch 1 on the CPU; or what, and the reason why
        it cannot be exported.
    """
    model = predictor.model
    if predictor.encoder is None:
        exports = {"model": (model, "images", _to_unit_range(images, model.image_size))}
    else:
        network = predictor.encoder.network
        exports = {
            "model": (model, "w_plus", predictor.inputs(images)),
            "encoder + model": (
                EncoderAndModel(network, model),
                "images",
                _to_unit_range(images, network.img_size),
            ),
        }
    rows = []
    for what, (exported, name, inputs) in progress(exports.items(), desc="export", unit=" files"):
        path = folder / f"{what.replace(' + ', '-')}.onnx"
        try:
            write_onnx(exported, inputs[:2], name, path)
            difference = onnx_difference(path, exported, inputs)
            row = {
                "file": path.name,
                "mb": path.stat().st_size / 1e6,
                "difference": difference,
                "agrees": difference < TOLERANCE,
                **latency(onnx_call(path, inputs[:1]), CPU),
            }
        except OSError:
            raise  # such as a full disk, which is no property of the model
        except Exception as error:  # a timm model or an own class may use any operator
            path.unlink(missing_ok=True)
            row = {"reason": describe_error(error)}
        rows.append({"what": what, **row})
    return pd.DataFrame(rows, columns=_COLUMNS)


def _to_unit_range(images: Sequence[Image.Image], size: int) -> Tensor:
    """Images of any size → (N, 3, size, size) float32 in [0, 1]."""
    return images_to_tensor(images, size).add_(1).div_(2)
