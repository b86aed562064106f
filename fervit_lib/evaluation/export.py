"""A trained model as ONNX, and the proof that ONNX Runtime agrees with it."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from fervit_lib.runs import atomic_write


def export_onnx(model: nn.Module, path: Path, latent_shape: tuple[int, int]) -> Path:
    """Write `model` with input `w_plus` (batch, *latent_shape) float32 and output `logits`; the batch size is free."""
    model = model.eval().cpu()
    with atomic_write(path) as temporary:
        torch.onnx.export(
            model,
            (torch.zeros(2, *latent_shape),),
            str(temporary),
            input_names=["w_plus"],
            output_names=["logits"],
            dynamic_axes={"w_plus": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,  # the newer exporter needs another package and gives the same graph here
        )
    return path


def onnx_difference(path: Path, model: nn.Module, codes: Tensor) -> float:
    """Largest absolute difference between ONNX Runtime's and torch's logits of `codes` (N, layers, dim), on the CPU."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    codes = codes.float().cpu()
    with torch.inference_mode():
        expected = model.eval().cpu()(codes).numpy()
    [found] = session.run(["logits"], {"w_plus": codes.numpy()})
    return float(np.abs(found - expected).max())
