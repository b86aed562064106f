"""Models as ONNX files."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write


@distributed.rank_zero_only
def write_onnx(model: nn.Module, example: Tensor, name: str, path: Path) -> Path:
    """Write a model with one input, `name`, and one output, `logits`; the batch size is free.

    Args:
        example: a batch of at least 2: a dimension of 1 would be fixed in the graph.
    """
    device = next(model.parameters()).device
    try:
        with atomic_write(path) as temporary, warnings.catch_warnings(), torch.no_grad():
            # The shapes of layers and images are constants on purpose.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            warnings.filterwarnings("ignore", "Constant folding")  # it only says what it leaves out
            torch.onnx.export(
                model.eval().cpu(),
                (example.cpu(),),
                str(temporary),
                input_names=[name],
                output_names=["logits"],
                dynamic_axes={name: {0: "batch"}, "logits": {0: "batch"}},
                opset_version=17,
                # A twentieth of the newer exporter's time, which names inner tensors otherwise.
                dynamo=False,
            )
    finally:
        model.to(device)
    return path
