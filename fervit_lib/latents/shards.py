"""One shard of StyleGAN `w+` codes: written atomically, read by memory map."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.errors import explain_read_error

NUM_LAYERS = 18  # styles of a 1024×1024 StyleGAN2
LATENT_DIM = 512
SHARD_SIZE = 1024
# What the layers of w+ control: pose and shape, facial features, colour and texture
# (StyleGAN, section 3.1; pSp, section 3.1).
BANDS = {"coarse": slice(0, 3), "middle": slice(3, 7), "fine": slice(7, 18)}


def shard_fingerprint(
    encoding: str, paths: Sequence[str], labels: np.ndarray, hashes: np.ndarray | None = None
) -> str:
    """Hash of what a shard is encoded from; a shard with an equal one is not encoded again.

    Args:
        encoding: identifies the encoder's weights and settings.
        hashes: (n, 16) uint8, of the faces' content; None: unknown.
    """
    content = json.dumps([encoding, list(paths), labels.tolist()])
    digest = hashlib.sha256(content.encode())
    digest.update(b"" if hashes is None else hashes.tobytes())
    return digest.hexdigest()


def read_fingerprint(path: Path) -> str | None:
    """The fingerprint in a shard's header; None if there is no complete shard."""
    try:
        with safe_open(path, framework="pt") as file:
            return _read_header(file)["fingerprint"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None


def write_shard(
    path: Path,
    codes: Tensor,
    labels: np.ndarray,
    paths: Sequence[str],
    fingerprint: str,
    *,
    encoding: str = "",
    hashes: np.ndarray | None = None,
) -> None:
    """Write codes (n, 18, 512) as float16 with their labels (n,) and image paths, atomically.

    Args:
        fingerprint: see `shard_fingerprint`, and for `encoding` and `hashes`, too.

    Raises:
        ValueError: the shapes do not match, or a code is not finite in float16.
        OSError: it could not be written, for instance because the disk is full.
    """
    n = len(paths)
    if codes.ndim != 3 or len(codes) != n or len(labels) != n or n > SHARD_SIZE:
        raise ValueError(
            f"codes: expected shape ({n}, layers, dim) for {n} paths and {len(labels)} labels, at "
            f"most {SHARD_SIZE} of each, got {tuple(codes.shape)}"
        )
    half = codes.to(torch.float16).cpu().contiguous()
    is_finite = half.isfinite().flatten(1).all(1)
    if not is_finite.all():
        first_bad = paths[int((~is_finite).nonzero()[0])]
        raise ValueError(
            f"codes: expected finite values in float16, got others for {first_bad}; check the "
            f"weights of the encoder"
        )
    tensors = {"codes": half, "labels": torch.as_tensor(labels, dtype=torch.int64)}
    if hashes is not None:
        tensors["hashes"] = torch.tensor(hashes)
    # One metadata entry: safetensors writes several in random order, and equal codes should be
    # equal files.
    header = {"fingerprint": fingerprint, "encoding": encoding, "paths": list(paths)}
    metadata = {"shard": json.dumps(header)}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)


def _read_header(file: Any) -> dict[str, Any]:
    return json.loads(file.metadata()["shard"])


def read_shard(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: shard missing; run 01_encode, which encodes it again")
    with (
        explain_read_error(path, "not a complete shard", "delete it and run 01_encode"),
        safe_open(path, framework="pt") as file,
    ):
        codes = file.get_tensor("codes")
        labels = file.get_tensor("labels")
        header = _read_header(file)
        paths = header["paths"]
        hashes = file.get_tensor("hashes").numpy() if "hashes" in file.keys() else None  # noqa: SIM118
        is_codes = codes.ndim == 3 and codes.is_floating_point()
        is_labels = labels.ndim == 1 and labels.dtype == torch.int64 and (labels >= 0).all()
        is_paths = isinstance(paths, list) and all(isinstance(name, str) for name in paths)
        if not (is_codes and is_labels and is_paths and len(codes) == len(labels) == len(paths)):
            raise TypeError(
                f"codes {tuple(codes.shape)} {codes.dtype} do not match its labels "
                f"{tuple(labels.shape)} and {len(paths)} paths"
            )
        if hashes is not None and (hashes.shape, hashes.dtype) != ((len(paths), 16), np.uint8):
            raise TypeError(f"hashes {hashes.shape} {hashes.dtype} do not match its paths")
    return header | {"codes": codes, "labels": labels, "hashes": hashes}
