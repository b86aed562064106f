"""Save and load weights with their metadata as safetensors files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write, json_default
from fervit_lib.system.errors import explain_read_error


@distributed.rank_zero_only
def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` and `metadata` to a safetensors file, atomically.

    The metadata is one JSON string: safetensors writes several entries in random order, and equal
    checkpoints should be equal files.
    """
    # safetensors refuses tensors that are not contiguous. Copies of a GPU's tensors go to pinned
    # memory, all at once; elsewhere such a copy would not be safe.
    tensors = {
        name: tensor.detach().contiguous().to("cpu", non_blocking=tensor.is_cuda)
        for name, tensor in tensors.items()
    }
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {"fervit": json.dumps(metadata, default=json_default)})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the tensors (on the CPU) and the metadata that `save_checkpoint` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, or not a checkpoint of this project.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such checkpoint; run the notebook that writes it first"
        )
    problem = "expected a safetensors checkpoint of this project, but it is truncated or not one"
    with (
        explain_read_error(path, problem, "train again, or restore the file"),
        safe_open(path, framework="pt") as file,
    ):
        metadata = json.loads((file.metadata() or {})["fervit"])
        if not isinstance(metadata, dict):
            raise TypeError(f"its metadata is a {type(metadata).__name__}")
        names = file.keys()  # `file` itself cannot be iterated over
        return {name: file.get_tensor(name) for name in names}, metadata
