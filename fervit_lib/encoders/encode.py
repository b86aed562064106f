"""Faces to shards of codes, shard by shard, so that an interrupted run goes on where it stood.

Several processes that encode the same faces into the same folder take different shards, on as many machines as see it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fervit_lib.datasets import FaceDataset
from fervit_lib.encoders.images import change_view, normalise, resize_face, stack_faces
from fervit_lib.encoders.style_encoder import StyleEncoder
from fervit_lib.latents import (
    SHARD_SIZE,
    claim_shards,
    read_fingerprint,
    shard_fingerprint,
    shard_path,
    write_shard,
)
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import has_fast_bf16

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AHEAD = 3  # batches that are read while one is encoded


def prepare_encoder(
    encoder: nn.Module,
    device: torch.device,
    *,
    dtype: str = "auto",
    channels_last: bool = True,
    compile: bool = False,
    group_styles: bool = False,
) -> nn.Module:
    """Move an encoder to `device` and make it fast there; it gives the same codes up to rounding.

    Args:
        dtype: float32, bfloat16, or auto: bfloat16 for psp and e4e where `device` is fast in it, else float32. With
            random weights, bfloat16 moves a code by at most 0.4% of the largest value.
        compile: let torch.compile translate it at its first batch (a minute or more; pays on many faces).
        group_styles: run psp's and e4e's style blocks together, see `StyleBand`. Measure: benchmarks/encode.py.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype: expected auto, {', '.join(DTYPES)}, got {dtype!r}")
    is_style = isinstance(encoder, StyleEncoder)
    if dtype == "auto":
        dtype = "bfloat16" if is_style and has_fast_bf16(device) else "float32"
    if group_styles and is_style:
        encoder.group_styles()
    encoder = encoder.eval().to(device)
    for part in encoder.children():  # not the encoder itself: its mean code stays float32
        part.to(
            dtype=DTYPES[dtype],
            memory_format=torch.channels_last if channels_last else torch.preserve_format,
        )
    if compile:
        encoder.compile()
    return encoder


def encoder_dtype(encoder: nn.Module) -> torch.dtype:
    """The precision in which an encoder works."""
    return next((parameter.dtype for parameter in encoder.parameters()), torch.float32)


@torch.inference_mode()
def encode_faces(
    encoder: nn.Module,
    encoder_sha256: str,
    faces: FaceDataset,
    folder: Path,
    split: str,
    *,
    device: torch.device,
    batch_size: int = 128,
    view: int = 0,
    align: Callable[[Image.Image], Image.Image] | None = None,
    num_workers: int | None = None,
) -> int:
    """Encode `faces` into the shards of `split`; shards that are there from the same encoder and faces are kept.

    Another process that does the same at the same time makes other shards. Each returns when all shards are there; one
    that is killed leaves its shard to the others, or to the next run.

    Args:
        encoder: (B, 3, S, S) in [-1, 1] → (B, 18, 512), with its side S as `img_size`; see `prepare_encoder`.
        encoder_sha256: identifies the encoder's weights and how they are used: precision, alignment.
        view: which view of the faces is encoded, see `change_view`.
        align: cuts the face out of an image, before it is resized.
        num_workers: threads that read images; None: as many as there are cores.

    Returns:
        The number of codes that this process made now.

    Raises:
        ValueError: no faces.
        OSError: a face cannot be read, or hangs, or a shard cannot be written; whole shards stay.
    """
    if not len(faces):
        raise ValueError(f"{faces.source}: no faces to encode in split {split!r}; add images")
    encoder = encoder.eval().to(device)

    def shard_of(index: int) -> tuple[FaceDataset, str, bool]:
        """Its faces, the fingerprint that it shall have, and whether it is there already."""
        shard = faces.subset(slice(index * SHARD_SIZE, (index + 1) * SHARD_SIZE))
        fingerprint = shard_fingerprint(encoder_sha256, shard.paths, shard.labels)
        return shard, fingerprint, read_fingerprint(shard_path(folder, split, index)) == fingerprint

    missing = [index for index in range(-(-len(faces) // SHARD_SIZE)) if not shard_of(index)[2]]
    to_make, made = sum(min(SHARD_SIZE, len(faces) - index * SHARD_SIZE) for index in missing), 0
    read = _reader(encoder.img_size, align)
    with (
        PrefetchPool(num_workers) as pool,
        progress(
            total=len(faces), initial=len(faces) - to_make, desc=f"encode {split}", unit=" faces"
        ) as bar,
    ):
        for index in claim_shards(folder, split, missing):
            shard, fingerprint, is_there = shard_of(index)
            codes: list[Tensor] = []
            if is_there:  # another process made it meanwhile
                bar.update(len(shard))
                continue
            (folder / "store.json").unlink(missing_ok=True)  # an older store is complete no more
            for pixels in _batches(shard, partial(read, shard), batch_size, pool):
                first = index * SHARD_SIZE + sum(map(len, codes))
                pixels = pixels if view > 1 else _to(device, pixels)
                images = _to(device, change_view(normalise(pixels), view, seed=first))
                codes.append(encoder(images.to(encoder_dtype(encoder))))
                bar.update(len(images))
            path = shard_path(folder, split, index)
            write_shard(path, torch.cat(codes).cpu(), shard.labels, shard.paths, fingerprint)
            made += len(shard)
    return made


def _reader(
    size: int, align: Callable[[Image.Image], Image.Image] | None
) -> Callable[[FaceDataset, int], np.ndarray]:
    def read(faces: FaceDataset, index: int) -> np.ndarray:
        image, _ = faces[index]
        return resize_face(align(image) if align else image, size)

    return read


def _batches(
    faces: FaceDataset, read: Callable[[int], np.ndarray], batch_size: int, pool: PrefetchPool
) -> Iterator[Tensor]:
    """Batches (B, 3, S, S) uint8 in order; the next ones are read meanwhile. Pillow works outside Python's lock."""
    pixels = pool.map(read, range(len(faces)), faces.file, ahead=AHEAD * batch_size)
    while batch := list(islice(pixels, batch_size)):
        yield stack_faces(batch)


def _to(device: torch.device, tensor: Tensor) -> Tensor:
    """To a GPU without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
