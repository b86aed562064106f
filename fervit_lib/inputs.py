"""The faces of a latent store as inputs of a model: codes or images."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fervit_lib.datasets import FaceDataset, Protocol, hash_faces, load_faces, manifest_path
from fervit_lib.latents import SHARD_SIZE, LatentStore
from fervit_lib.models import ExpressionModel
from fervit_lib.system.checkpoints import load_checkpoint, save_tensors
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.identity import digest
from fervit_lib.system.locks import hold_lock
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import display_path
from fervit_lib.system.shards import MappedRows


def inputs_for(
    model: ExpressionModel, store: LatentStore, indices: np.ndarray | None = None
) -> Tensor | MappedRows:
    """Inputs of `model` for faces of a store's split; `[:]` reads them to memory.

    Args:
        indices: of the faces; None: all.

    Returns:
        Codes (n, 18, 512), or images (n, 3, S, S) uint8, see `load_pixels`: memory-mapped, but for
        a few images, which are read from their files.

    Raises:
        ValueError: the codes' shape is not the model's, or a face was removed or changed after
            encoding.
    """
    if model.reads == "pixels":
        # A trained model reads other faces as it read those that it learned from.
        side = pixel_side(model.image_size, model.face_size or store.face_size)
        if indices is not None and len(indices) <= SHARD_SIZE:
            return load_pixels(store, indices, side, model.resize_method)
        rows = map_pixels(store, side, model.resize_method)
        return rows if indices is None else rows.subset(indices)
    shape = store.shards[0]["codes"].shape[1:]
    if shape != model.input_shape:
        raise ValueError(
            f"{store.folder}: expected codes of the model's shape {model.input_shape}, got "
            f"{tuple(shape)}; give the model latent_dim and num_tokens of these codes, or encode "
            f"again"
        )
    return store.rows if indices is None else store.rows.subset(indices)


def load_pixels(
    store: LatentStore, indices: np.ndarray, side: int, resize_method: str = "squish"
) -> Tensor:
    """Faces of a store's split as images, (n, 3, side, side) uint8 RGB.

    Args:
        resize_method: how a face that is not square is resized, see `ImageModel`.
    """
    faces = load_store_faces(store, indices)
    pixels = np.empty((len(faces), 3, side, side), np.uint8)
    with progress(desc="read faces", unit=" faces", total=len(faces)) as bar:
        _read_pixels(faces, pixels, resize_method, bar)
    return torch.from_numpy(pixels)


def pixel_side(image_size: int, face_size: int) -> int:
    """The side of images for a model of `image_size`, which enlarges smaller ones itself.

    Args:
        face_size: longest side of the faces that the model learned from; 0: unknown.
    """
    return min(image_size, face_size or image_size)


def map_pixels(store: LatentStore, side: int, resize_method: str) -> MappedRows:
    """All faces of a store's split as `load_pixels` returns them, memory-mapped.

    Each picture is decoded once for a size and method, to `<store>/pixels/<side>-<method>/`. A file
    has as many faces as a shard of codes, and the hash of their content in its name. Of several
    processes one writes, and all read the same memory. Files of faces that changed are removed.

    Raises:
        ValueError: a face was removed or changed after encoding, or a file is damaged.
        OSError: the disk is full.
    """
    faces = None if _is_unchanged(store) else load_store_faces(store, np.arange(len(store)))
    folder = store.folder / "pixels" / f"{side}-{resize_method}"
    parts = [slice(start, start + SHARD_SIZE) for start in range(0, len(store), SHARD_SIZE)]
    hashes: Any = store.hashes if faces is None else faces.hashes
    paths = [
        folder / f"{store.split}-{number:05d}-{digest(hashes[part].tobytes().hex())}.safetensors"
        for number, part in enumerate(parts)
    ]
    if not all(path.is_file() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        faces = load_store_faces(store, np.arange(len(store)))
        with hold_lock(folder / f".{store.split}.lock"):
            for old in set(folder.parent.glob(f"*/{store.split}-[0-9]*.safetensors")):
                if old.name not in {path.name for path in paths}:
                    old.unlink(missing_ok=True)
            size = f"{len(faces) * 3 * side**2 / 1e9:.2g} GB to {display_path(folder)}"
            with progress(desc=f"read faces ({size})", unit=" faces", total=len(faces)) as bar:
                for part, path in zip(parts, paths, strict=True):
                    shard = faces.subset(part)
                    if path.is_file():
                        bar.update(len(shard))
                        continue
                    pixels = np.empty((len(shard), 3, side, side), np.uint8)
                    _read_pixels(shard, pixels, resize_method, bar)
                    _check_unchanged(shard, shard.hashes, store)
                    save_tensors(path, {"pixels": torch.from_numpy(pixels)}, {"kind": "pixels"})
    remedy = "delete it and run again"
    return MappedRows([load_checkpoint(path, remedy)[0]["pixels"].numpy() for path in paths])


def _is_unchanged(store: LatentStore) -> bool:
    """Whether the files of all faces of a store's split are known to be those that were encoded.

    Reads names shard by shard: listing a large set takes more memory than all that follows. Faces
    cut out of pictures, and those in a table, are not found this way.
    """
    for index, shard in enumerate(store.shards):
        names = tuple(store.shard_paths(index))
        faces = FaceDataset(store.classes, shard["labels"].numpy(), names, store.faces)
        try:
            hashes = hash_faces(faces, manifest_path(store.folder))
        except OSError:
            return False
        if shard["hashes"] is None or not np.array_equal(hashes, shard["hashes"]):
            return False
    return True


def _read_pixels(faces: FaceDataset, pixels: np.ndarray, resize_method: str, bar: Any) -> None:
    """Decode and resize faces into `pixels` (N, 3, S, S) uint8."""

    def read(index: int) -> None:
        pixels[index] = _to_pixels(faces[index][0], pixels.shape[-1], resize_method)

    for _ in faces.map(read):  # Pillow decodes and resizes without Python's lock
        bar.update()


def pixels_to_images(pixels: Tensor) -> list[Image.Image]:
    """(n, 3, H, W), uint8 or float in [0, 1], as images."""
    if pixels.is_floating_point():
        pixels = (255 * pixels).round().byte()
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def load_face_images(store: LatentStore, indices: np.ndarray) -> list[Image.Image]:
    """Faces of a store's split as square images of at most 128 pixels.

    [] if they were moved, or if one was made from codes, see `pt_codes`.
    """
    if not store.faces.exists() or any(store.paths[i].endswith(".pt") for i in indices):
        return []
    return pixels_to_images(load_pixels(store, indices, pixel_side(128, store.face_size)))


def load_store_faces(store: LatentStore, indices: np.ndarray) -> FaceDataset:
    """The faces at `indices` of a store's split, in that order, with `hashes`.

    A face in a table is found by its content, whatever its line is now.

    Raises:
        ValueError: a face was removed or changed after encoding.
    """
    names = store.paths
    wanted = [names[i] for i in indices]
    with explain_read_error(store.folder / "store.json", "protocol", "run 01_encode"):
        protocol = Protocol(**store.protocol)
    faces = load_faces(store.faces, store.split, protocol=protocol)
    if store.split == "train" and not set(wanted) <= set(faces.paths):
        # `val_to_train` of 01_encode moves faces of val to train.
        faces = faces.joined(load_faces(store.faces, "val", protocol=protocol))
    keys: Sequence = faces.paths
    if faces.pixels is not None and store.hashes is not None:
        keys = list(map(bytes, hash_faces(faces, manifest_path(store.folder))))
        wanted = list(map(bytes, store.hashes[indices]))
    position = {key: i for i, key in enumerate(keys)}
    for index, key in zip(indices, wanted, strict=True):
        if key in position:
            continue
        if names[index].endswith(".pt"):
            raise ValueError(
                f"{store.folder}: {names[index]} was made from codes and has no picture, as others "
                f"may; use a model over codes"
            )
        raise ValueError(
            f"{store.faces}: {names[index]} was removed or changed after encoding; restore it, or "
            f"run 01_encode"
        )
    chosen = faces.subset([position[key] for key in wanted])
    encoded = None if store.hashes is None else store.hashes[indices]
    return replace(chosen, hashes=_check_unchanged(chosen, encoded, store))


def _check_unchanged(
    faces: FaceDataset, encoded: np.ndarray | None, store: LatentStore
) -> np.ndarray:
    """The hashes of `faces`; ValueError if they are not those that were `encoded`, if known."""
    hashes = hash_faces(faces, manifest_path(store.folder))
    changed = np.zeros(0) if encoded is None else (hashes != encoded).any(1)
    if changed.any():
        raise ValueError(
            f"{store.faces}: {faces.paths[changed.argmax()]} changed after it was encoded, "
            f"{changed.sum()} faces in all; run 01_encode"
        )
    return hashes


_RESIZE: dict[str, Callable[..., Image.Image]] = {
    "squish": Image.Image.resize,
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,
}


def images_to_pixels(images: Sequence[Image.Image], side: int, resize_method: str) -> Tensor:
    """Images of any size as `load_pixels` returns them, (n, 3, side, side) uint8."""
    return torch.from_numpy(np.stack([_to_pixels(i, side, resize_method) for i in images]))


def _to_pixels(image: Image.Image, side: int, resize_method: str) -> np.ndarray:
    """(3, S, S) uint8."""
    image = image.convert("RGB")
    if image.size != (side, side):
        image = _RESIZE[resize_method](image, (side, side), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)
