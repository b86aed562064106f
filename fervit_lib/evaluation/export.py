"""A trained model as ONNX, alone or behind the encoder, and the proof that ONNX Runtime agrees with it."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fervit_lib.encoders import images_to_tensor
from fervit_lib.evaluation.efficiency import measure_onnx
from fervit_lib.evaluation.predict import Predictor
from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.progress import progress

TOLERANCE = 1e-4  # of logits; float32 adds in another order in ONNX Runtime


class EncoderAndModel(nn.Module):
    """Images (B, 3, S, S) in [0, 1] at the encoder's side → logits (B, classes): the encoder, then the model."""

    reads = "pixels"

    def __init__(self, encoder: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.encoder, self.model = encoder, model
        self.input_shape = (3, encoder.img_size, encoder.img_size)

    def forward(self, images: Tensor) -> Tensor:
        codes = self.encoder(2 * images - 1)
        # The encoder's last layers would leave the batch size of the example in the exported graph.
        return self.model(codes.reshape(images.shape[0], *codes.shape[1:]))


def export_onnx(model: nn.Module, path: Path) -> Path:
    """Write `model`; the batch size is free. The model stays where it is.

    Input `w_plus` (batch, 18, 512), or `images` (batch, 3, S, S) in [0, 1], float32; output `logits` (batch, classes).
    """
    name = "images" if model.reads == "pixels" else "w_plus"
    return write_onnx(model, torch.zeros(2, *model.input_shape), name, path)


@distributed.rank_zero_only
def write_onnx(model: nn.Module, example: Tensor, name: str, path: Path) -> Path:
    """Write any model of one input, which is called `name`, to one output, `logits`; the batch size is free."""
    device = next(model.parameters()).device
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # Checks of a shape are not traced, as they should not be.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model.eval().cpu(),
            (example.cpu(),),
            str(temporary),
            input_names=[name],
            output_names=["logits"],
            dynamic_axes={name: {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,  # the newer exporter needs another package and gives the same graph here
        )
    model.to(device)
    return path


def onnx_difference(path: Path, model: nn.Module, inputs: Tensor) -> float:
    """Largest absolute difference between ONNX Runtime's and torch's logits of `inputs` (N, …), on the CPU."""
    return difference_from_torch(path, model, as_onnx_input(model, inputs.cpu()))


def difference_from_torch(path: Path, model: nn.Module, inputs: Tensor) -> float:
    """As `onnx_difference`, for any model that `write_onnx` wrote and inputs as the graph takes them."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    device = next(model.parameters()).device
    with torch.inference_mode():
        expected = model.eval().cpu()(inputs.cpu()).numpy()
    model.to(device)
    [found] = session.run(["logits"], {session.get_inputs()[0].name: inputs.cpu().numpy()})
    return float(np.abs(found - expected).max())


def as_onnx_input(model: nn.Module, inputs: Tensor) -> Tensor:
    """Codes as float32; images in [0, 1] at the model's side, which the exported graph does not change."""
    if model.reads != "pixels":
        return inputs.float()
    images = inputs if inputs.is_floating_point() else inputs.float() / 255
    if images.shape[-2:] == model.input_shape[1:]:
        return images
    return F.interpolate(images, model.input_shape[1:], mode="bicubic", align_corners=False).clamp(
        0, 1
    )


def export_run(predictor: Predictor, folder: Path, pictures: Sequence[Image.Image]) -> pd.DataFrame:
    """Write a run as ONNX, its model alone and, where it takes codes, behind the encoder, and check both on `pictures`.

    Returns:
        A row a file: what, file, mb, difference (largest, of logits), agrees (within 1e-4), latency_p50_ms and
        latency_p95_ms at batch 1 on the CPU.
    """
    parts = {"model": (predictor.model, predictor.inputs(pictures))}
    if predictor.encoder is not None:
        whole = EncoderAndModel(predictor.encoder.network, predictor.model)
        parts["encoder + model"] = (whole, images_for_onnx(whole, pictures))
    rows = []
    for what, (model, inputs) in progress(parts.items(), desc="export", unit=" files"):
        path = export_onnx(model, folder / f"{what.replace(' + ', '-')}.onnx")
        difference = onnx_difference(path, model, inputs)
        row = {
            "what": what,
            "file": path.name,
            "mb": path.stat().st_size / 1e6,
            "difference": difference,
        }
        row |= {
            "agrees": difference < TOLERANCE,
            **measure_onnx(path, as_onnx_input(model, inputs[:1].cpu())),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def images_for_onnx(model: nn.Module, pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of any size → (N, 3, S, S) float32 in [0, 1], the input `images` of an exported model."""
    return images_to_tensor(pictures, model.input_shape[1]).add_(1).div_(2)
