"""A trained model as ONNX, and the proof that ONNX Runtime agrees with it."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.runs import atomic_write
from fervit_lib.training import is_image


def export_onnx(model: nn.Module, path: Path) -> Path:
    """Write `model`; the batch size is free.

    Input `w_plus` (batch, 18, 512), or `images` (batch, 3, S, S) in [0, 1], float32; output `logits` (batch, classes).
    """
    return write_onnx(model, torch.zeros(2, *model.input_shape), "images" if is_image(model) else "w_plus", path)


def write_onnx(model: nn.Module, example: Tensor, name: str, path: Path) -> Path:
    """Write any model of one input, which is called `name`, to one output, `logits`; the batch size is free."""
    model = model.eval().cpu()
    with atomic_write(path) as temporary:
        torch.onnx.export(
            model,
            (example,),
            str(temporary),
            input_names=[name],
            output_names=["logits"],
            dynamic_axes={name: {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,  # the newer exporter needs another package and gives the same graph here
        )
    return path


def onnx_difference(path: Path, model: nn.Module, inputs: Tensor) -> float:
    """Largest absolute difference between ONNX Runtime's and torch's logits of `inputs` (N, …), on the CPU."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = model.eval().cpu()
    with torch.inference_mode():
        inputs = as_onnx_input(model, inputs.cpu())
        expected = model(inputs).numpy()
    [found] = session.run(["logits"], {session.get_inputs()[0].name: inputs.numpy()})
    return float(np.abs(found - expected).max())


def as_onnx_input(model: nn.Module, inputs: Tensor) -> Tensor:
    """Codes as float32; images in [0, 1] at the model's side, which the exported graph does not change."""
    if not is_image(model):
        return inputs.float()
    images = inputs if inputs.is_floating_point() else inputs.float() / 255
    return F.interpolate(images, model.input_shape[1:], mode="bicubic", align_corners=False).clamp(0, 1)
