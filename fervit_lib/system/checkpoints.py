"""Save and load weights with their metadata as safetensors files; hash tensors."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write, json_default
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.identity import NO_CHECKSUM, check_checksum, write_checksum
from fervit_lib.system.names import escape


@distributed.rank_zero_only
def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping) -> None:
    """`save_tensors` by one of several processes that train together."""
    save_tensors(path, tensors, metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping) -> None:
    """Write `tensors` and `metadata` to a safetensors file with a checksum, atomically.

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
    content = {"checksum": NO_CHECKSUM, **metadata}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {"fervit": json.dumps(content, default=json_default)})
        write_checksum(temporary)


def save_pickled(path: Path, content: Mapping) -> None:
    """Write `content` by `torch.save`, atomically, for tools that read such files."""
    # Through memory, since torch reports a full disk as an error without a reason.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(
    path: Path, remedy: str = "train again, or restore the file"
) -> tuple[dict[str, Tensor], dict]:
    """Load the tensors (on the CPU, by memory map) and the metadata that `save_tensors` wrote.

    Args:
        remedy: how to create the file again, for error messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has changed since it was written, or this project did not write it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{escape(path)}: no such file; {remedy}")
    with explain_read_error(path, "damaged, or not written by this project", remedy):
        check_checksum(path)
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["fervit"])
            del metadata["checksum"]
            names = file.keys()  # `file` itself cannot be iterated over
            return {name: file.get_tensor(name) for name in names}, metadata


def content_key(*parts: Tensor | bytes) -> str:
    """Hash dtype, shape and values of tensors, and bytes, to 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            part = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(part)
    return digest.hexdigest()


def model_key(model: nn.Module) -> str:
    """Hash a model's parameters and buffers."""
    return content_key(*model.state_dict().values())
