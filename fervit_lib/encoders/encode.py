"""Encode faces into shards of codes. An interrupted run continues with the first missing shard.

Several processes, on as many machines as share the folder, encode the same faces together: each
takes other shards.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fervit_lib.datasets import FaceDataset, content_seeds, hash_faces, manifest_path
from fervit_lib.encoders.images import change_view, normalise, read_aligned, stack_faces
from fervit_lib.encoders.style_encoder import StyleEncoder
from fervit_lib.latents import (
    SHARD_SIZE,
    read_fingerprint,
    read_shard,
    shard_fingerprint,
    write_shard,
)
from fervit_lib.system.names import check_choice
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import has_fast_bf16
from fervit_lib.system.shards import claim_shards, shard_path

AHEAD = 3  # batches that are read while one is encoded


def prepare_encoder(
    encoder: nn.Module, device: torch.device, *, dtype: str = "auto", compile: bool = False
) -> nn.Module:
    """Move an encoder to `device` in the fastest layout; its codes are equal up to rounding.

    Args:
        dtype: float32; bfloat16; or auto: bfloat16 if `device` is fast in it, but for the
            autoencoder, else float32. With random weights, bfloat16 changes a code of pSp by at
            most 0.4% of the largest value.
        compile: run torch.compile at the first batch (a minute or more; pays for many faces).

    Raises:
        ValueError: unknown dtype.
    """
    check_choice("dtype", dtype, ("auto", "float32", "bfloat16"))
    if dtype == "auto":
        is_fast = isinstance(encoder, StyleEncoder) and has_fast_bf16(device)
        dtype = "bfloat16" if is_fast else "float32"
    encoder = encoder.eval().to(device)
    # The mean code, a buffer of the style encoder itself, stays float32, and so does ReStyle's
    # generator.
    parts = encoder.named_children() if isinstance(encoder, StyleEncoder) else [("", encoder)]
    for part in (part for name, part in parts if name != "generator"):
        part.to(dtype=getattr(torch, dtype), memory_format=torch.channels_last)
    if compile:
        encoder.compile()
    return encoder


def encoder_dtype(encoder: nn.Module) -> torch.dtype:
    """The dtype of an encoder's weights; float32 if it has none."""
    return next((tensor.dtype for tensor in encoder.state_dict().values()), torch.float32)


def _stored_codes(paths: Iterable[Path], encoding: str) -> dict[bytes, np.ndarray]:
    """Hash of a face → its code, of one encoding, in existing shards.

    The codes are memory maps, which can still be read after the shards were replaced.
    """
    stored: dict[bytes, np.ndarray] = {}
    for path in paths:
        with suppress(OSError, ValueError):  # a damaged shard is encoded again
            shard = read_shard(path)
            if shard["encoding"] == encoding and shard["hashes"] is not None:
                stored.update(zip(map(bytes, shard["hashes"]), shard["codes"].numpy(), strict=True))
    return stored


@torch.inference_mode()
def encode_faces(
    encoder: nn.Module,
    encoding: str,
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
    """Encode `faces` into the shards of `split`.

    Codes of the same encoding and the same picture are kept, whatever its name and position.
    Other processes may run the same at the same time: each returns when all shards exist. The shard
    of a process that is killed is encoded by another one, or by the next run.

    Args:
        encoder: (B, 3, S, S) in [-1, 1] → (B, 18, 512), with S as `img_size`; see
            `prepare_encoder`.
        encoding: identifies the encoder's weights and settings: precision, alignment.
        view: which view of the faces to encode, see `change_view`.
        align: crops the face out of an image, before it is resized.
        batch_size: faces at once; halved as often as the device's memory is too small for them.
        num_workers: threads that read images; None: one per core.

    Returns:
        The number of faces that this process encoded.

    Raises:
        ValueError: no faces, or one that changed meanwhile.
        OSError: a face cannot be read in time, or a shard cannot be written; complete shards are
            kept.
    """
    if not len(faces):
        raise ValueError(f"{faces.source}: no faces to encode in split {split!r}; add images")
    encoder = encoder.eval().to(device)
    manifest = manifest_path(folder)
    all_hashes = hash_faces(faces, manifest)

    def select_shard(index: int) -> tuple[FaceDataset, np.ndarray, str, bool]:
        """The faces of a shard, their hashes, its fingerprint, and whether it exists already."""
        rows = slice(index * SHARD_SIZE, (index + 1) * SHARD_SIZE)
        shard, hashes = faces.subset(rows), all_hashes[rows]
        fingerprint = shard_fingerprint(encoding, shard.paths, shard.labels, hashes)
        exists = read_fingerprint(shard_path(folder, split, index)) == fingerprint
        return shard, hashes, fingerprint, exists

    num_shards = -(-len(faces) // SHARD_SIZE)
    missing = [index for index in range(num_shards) if not select_shard(index)[-1]]
    num_missing = sum(min(SHARD_SIZE, len(faces) - index * SHARD_SIZE) for index in missing)
    # Opened before any shard is replaced: if a face is removed, codes move to other shards. Stores
    # with other splits of the same faces hold their codes, too.
    splits = [split] if view else {split, "train", "val", "test"}
    existing = [folder.parent.glob(f"*/{name}-[0-9]*.safetensors") for name in splits]
    stored = _stored_codes(chain.from_iterable(existing), encoding) if missing else {}
    num_new = 0
    largest = LargestBatch(encoder, batch_size)
    with (
        PrefetchPool(num_workers) as pool,
        progress(
            total=len(faces),
            initial=len(faces) - num_missing,
            desc=f"encode {split}",
            unit=" faces",
        ) as bar,
    ):
        for index in claim_shards(folder, split, missing):
            shard, hashes, fingerprint, exists = select_shard(index)
            if exists:  # another process encoded it in the meantime
                bar.update(len(shard))
                continue
            # Readers must not open a store of new and old shards.
            (folder / "store.json").unlink(missing_ok=True)  # the store is incomplete from here on
            is_new = np.array([bytes(face) not in stored for face in hashes])
            new = shard.subset(is_new)
            bar.update(len(shard) - len(new))
            codes = []
            pixels = read_aligned(new, encoder.img_size, align, pool, AHEAD * batch_size)
            batches = _batched(pixels, batch_size)
            seeds = content_seeds(hashes[is_new])
            for images in _batches_of_view(batches, view, seeds, device):
                codes.append(largest.encode(images.to(encoder_dtype(encoder))))
                bar.update(len(images))
            if not np.array_equal(hash_faces(new, manifest), hashes[is_new]):
                raise ValueError(
                    f"{faces.source}: faces changed while they were encoded; run 01_encode again"
                )
            encoded = iter(torch.cat(codes).half().cpu().numpy() if codes else ())
            merged = np.stack(
                [stored[h] if h in stored else next(encoded) for h in map(bytes, hashes)]
            )
            write_shard(
                shard_path(folder, split, index),
                torch.from_numpy(merged),
                shard.labels,
                shard.paths,
                fingerprint,
                encoding=encoding,
                hashes=hashes,
            )
            num_new += len(new)
    return num_new


class LargestBatch:
    """Encodes batches in as large parts as the device has memory for."""

    def __init__(self, encoder: nn.Module, size: int) -> None:
        self.encoder = encoder
        self.size = size

    def encode(self, images: Tensor) -> Tensor:
        while True:
            try:
                return torch.cat([self.encoder(part) for part in images.split(self.size)])
            except torch.OutOfMemoryError:
                if len(images[: self.size]) == 1:
                    raise
            # Outside of the handler, whose traceback holds the tensors of the attempt.
            self.size = len(images[: self.size]) // 2
            torch.cuda.empty_cache()
            print(f"Too little memory for a larger batch: batch_size {self.size} from here on")


def _batched(pixels: Iterator[np.ndarray], batch_size: int) -> Iterator[Tensor]:
    """Faces (S, S, 3) → batches (B, 3, S, S)."""
    while batch := list(islice(pixels, batch_size)):
        yield stack_faces(batch)


def _batches_of_view(
    batches: Iterable[Tensor], view: int, seeds: Sequence[int], device: torch.device
) -> Iterator[Tensor]:
    """Batches (B, 3, S, S) uint8 → a view of them in [-1, 1] on `device`."""
    first = 0
    for pixels in batches:
        # Shifts are drawn on the CPU, so that they do not depend on the device.
        if view < 2:
            pixels = _move(pixels, device)
        images = change_view(normalise(pixels), view, seeds[first : first + len(pixels)])
        yield _move(images, device)
        first += len(pixels)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to `device`, without waiting for a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
