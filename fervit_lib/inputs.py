"""The faces of a latent store as inputs of a model: codes or images."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fervit_lib.datasets import FaceDataset, Protocol, hash_faces, load_faces, manifest_path
from fervit_lib.latents import LatentStore
from fervit_lib.models import ExpressionModel
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.progress import progress


def inputs_for(
    model: ExpressionModel, store: LatentStore, indices: np.ndarray | None = None
) -> Tensor:
    """Inputs of `model` for faces of a store's split.

    Args:
        indices: of the faces; None: all.

    Returns:
        Codes (n, 18, 512), or images (n, 3, S, S) uint8, see `load_pixels`.

    Raises:
        ValueError: the codes' shape is not the model's, or a face was removed after encoding.
    """
    indices = np.arange(len(store)) if indices is None else indices
    if model.reads == "pixels":
        return load_pixels(store, indices, model.image_size, model.resize_method)
    shape = store.shards[0]["codes"].shape[1:]
    if shape != model.input_shape:
        raise ValueError(
            f"{store.folder}: expected codes of the model's shape {model.input_shape}, got "
            f"{tuple(shape)}; give the model latent_dim and num_tokens of these codes, or encode "
            f"again"
        )
    return store.take(indices)


def load_pixels(
    store: LatentStore, indices: np.ndarray, image_size: int, resize_method: str = "squish"
) -> Tensor:
    """Faces of a store's split as images, (n, 3, S, S) uint8 RGB.

    S is the faces' own side, at most `image_size`.

    Args:
        resize_method: how a face that is not square is resized, see `ImageModel`.
    """
    faces = load_store_faces(store, indices)
    side = min(image_size, max(faces[0][0].size))

    def read(index: int) -> Tensor:
        return _to_pixels(faces[index][0], side, resize_method)

    with PrefetchPool() as pool:  # Pillow decodes and resizes without Python's lock
        pixels = pool.map(read, range(len(faces)), faces.file)
        bar = progress(pixels, desc="read faces", unit=" faces", total=len(faces))
        return torch.stack(list(bar))


def pixels_to_images(pixels: Tensor) -> list[Image.Image]:
    """(n, 3, H, W), uint8 or float in [0, 1], as images."""
    if pixels.is_floating_point():
        pixels = (255 * pixels).round().byte()
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def load_face_images(store: LatentStore, indices: np.ndarray, side: int = 128) -> list[Image.Image]:
    """Faces of a store's split as square images of at most `side` pixels.

    [] if they were moved, or if one was made from codes, see `pt_codes`.
    """
    if not store.faces.exists() or any(store.paths[i].endswith(".pt") for i in indices):
        return []
    return pixels_to_images(load_pixels(store, indices, side))


def load_store_faces(store: LatentStore, indices: np.ndarray) -> FaceDataset:
    """The faces at `indices` of a store's split, in that order, with `hashes`.

    Raises:
        ValueError: a face was removed or changed after encoding.
    """
    wanted = [store.paths[i] for i in indices]
    with explain_read_error(store.folder / "store.json", "protocol", "run 01_encode"):
        protocol = Protocol(**store.protocol)
    faces = load_faces(store.faces, store.split, protocol=protocol)
    if store.split == "train" and not set(wanted) <= set(faces.paths):
        # `val_to_train` of 01_encode moves faces of val to train.
        faces = faces.joined(load_faces(store.faces, "val", protocol=protocol))
    position = {path: i for i, path in enumerate(faces.paths)}
    if missing := [path for path in wanted if path not in position]:
        if missing[0].endswith(".pt"):
            raise ValueError(
                f"{store.folder}: {missing[0]} was made from codes and has no picture, as others "
                f"may; use a model over codes"
            )
        raise ValueError(
            f"{store.faces}: {missing[0]} was removed after encoding; restore it, or run 01_encode"
        )
    chosen = faces.subset([position[path] for path in wanted])
    hashes = hash_faces(chosen, manifest_path(store.folder))
    if store.hashes is not None:
        changed = (hashes != store.hashes[indices]).any(1)
        if changed.any():
            raise ValueError(
                f"{store.faces}: {wanted[changed.argmax()]} and {changed.sum() - 1} more changed "
                f"after encoding; run 01_encode"
            )
    return replace(chosen, hashes=hashes)


_RESIZE: dict[str, Callable[..., Image.Image]] = {
    "squish": Image.Image.resize,
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,
}


def images_to_pixels(images: Sequence[Image.Image], image_size: int, resize_method: str) -> Tensor:
    """Images as `load_pixels` returns them; S is the first one's side, at most `image_size`."""
    side = min(image_size, max(images[0].size))
    return torch.stack([_to_pixels(image, side, resize_method) for image in images])


def _to_pixels(image: Image.Image, side: int, resize_method: str) -> Tensor:
    """(3, S, S) uint8."""
    image = image.convert("RGB")
    if image.size != (side, side):
        image = _RESIZE[resize_method](image, (side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
