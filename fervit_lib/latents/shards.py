"""One shard of StyleGAN `w+` codes: written atomically, read by memory map."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fervit_lib.system.checkpoints import load_checkpoint, save_tensors
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.identity import digest

NUM_LAYERS = 18  # styles of a 1024×1024 StyleGAN2
LATENT_DIM = 512
SHARD_SIZE = 1024
# What the layers of w+ control: pose and shape, facial features, colour and texture
# (StyleGAN, section 3.1; pSp, section 3.1).
BANDS = {"coarse": slice(0, 3), "middle": slice(3, 7), "fine": slice(7, 18)}


def layer_bands(num_layers: int) -> dict[str, range]:
    """The layers of each band in codes of `num_layers` layers, 16 or 14 for a smaller StyleGAN."""
    layers = range(num_layers)
    return {band: layers[part] for band, part in BANDS.items() if layers[part]}


def shard_fingerprint(
    encoding: str, paths: Sequence[str], labels: np.ndarray, hashes: np.ndarray | None = None
) -> str:
    """Hash of what a shard is encoded from; a shard with an equal one is not encoded again.

    Args:
        encoding: identifies the encoder's weights and settings.
        hashes: (n, 16) uint8, of the faces' content; None: unknown.
    """
    content = "" if hashes is None else hashes.tobytes().hex()
    return digest(encoding, list(paths), labels.tolist(), content)


def read_fingerprint(path: Path) -> str | None:
    """The fingerprint in a shard's header; None if there is no complete shard."""
    try:
        return read_shard(path)["fingerprint"]
    except (OSError, ValueError):
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
    header = {"fingerprint": fingerprint, "encoding": encoding, "paths": list(paths)}
    save_tensors(path, tensors, header)


def read_shard(path: Path) -> dict:
    """Read a shard by memory map: its header, codes, labels and hashes, see `write_shard`.

    Raises:
        FileNotFoundError: there is no such shard.
        ValueError: it has changed since it was written, or is something else.
    """
    remedy = "run 01_encode, which encodes it again"
    tensors, header = load_checkpoint(path, remedy)
    with explain_read_error(path, "not a shard of codes", remedy):
        hashes = tensors["hashes"].numpy() if "hashes" in tensors else None
        return {
            "fingerprint": header["fingerprint"],
            "encoding": header["encoding"],
            "paths": header["paths"],
            "codes": tensors["codes"],
            "labels": tensors["labels"],
            "hashes": hashes,
        }
