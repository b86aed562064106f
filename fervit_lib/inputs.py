"""The faces of a latent store as a model takes them: codes or images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fervit_lib.datasets import FaceDataset, load_faces
from fervit_lib.latents import LatentStore
from fervit_lib.models import ExpressionModel
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.progress import progress


def inputs_for(
    model: ExpressionModel, store: LatentStore, indices: np.ndarray | None = None
) -> Tensor:
    """The faces of a store's split as `model` takes them: codes (n, 18, 512), or images (n, 3, S, S) uint8.

    Args:
        indices: which; None: all.

    Raises:
        ValueError: codes of another shape than the model's; a face is gone since its code was made.
    """
    indices = np.arange(len(store)) if indices is None else indices
    if model.reads == "pixels":
        return load_pixels(store, indices, model.image_size, model.resize_method)
    if (found := store.shards[0]["codes"].shape[1:]) != model.input_shape:
        raise ValueError(
            f"{store.folder}: expected codes of shape {model.input_shape}, as the model takes them, got "
            f"{tuple(found)}; give the model latent_dim and num_tokens of these codes, or encode again"
        )
    return store.take(indices)


def load_pixels(
    store: LatentStore, indices: np.ndarray, image_size: int, resize_method: str = "squish"
) -> Tensor:
    """The faces at `indices` of a store's split as images, (n, 3, S, S) uint8 RGB.

    S is the faces' own side, or `image_size` where they are larger.

    Args:
        resize_method: how a face becomes a square: see `ImageModel`.
    """
    return _stack(load_store_faces(store, indices), image_size, _RESIZE[resize_method])


def load_store_faces(store: LatentStore, indices: np.ndarray) -> FaceDataset:
    """The faces at `indices` of a store's split, in that order.

    Raises:
        ValueError: a face is gone since its code was made.
    """
    wanted = [store.paths[i] for i in indices]
    faces = load_faces(store.faces, store.split)
    if store.split == "train" and not set(wanted) <= set(faces.paths):
        faces = faces.joined(
            load_faces(store.faces, "val")
        )  # of which 01_encode may move some to train
    place = {path: i for i, path in enumerate(faces.paths)}
    if missing := [path for path in wanted if path not in place]:
        raise ValueError(
            f"{store.faces}: {missing[0]} is gone since its code was made; put it back, or run 01_encode"
        )
    return faces.subset([place[path] for path in wanted])


_RESIZE: dict[str, Callable[..., Image.Image]] = {
    "squish": Image.Image.resize,
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,
}


def _stack(faces: FaceDataset, image_size: int, resize: Callable[..., Image.Image]) -> Tensor:
    side = min(image_size, max(faces[0][0].size))
    with PrefetchPool() as pool:  # Pillow decodes and resizes outside Python's lock
        read = pool.map(
            lambda index: _pixels(faces[index][0], side, resize), range(len(faces)), faces.file
        )
        pixels = list(progress(read, desc="read faces", unit=" faces", total=len(faces)))
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def images_to_pixels(images: Sequence[Image.Image], image_size: int, resize_method: str) -> Tensor:
    """Pictures as `load_pixels` gives them: (n, 3, S, S) uint8 RGB, S the first one's side or `image_size`."""
    side = min(image_size, max(images[0].size))
    pixels = [_pixels(image, side, _RESIZE[resize_method]) for image in images]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def _pixels(image: Image.Image, side: int, resize: Callable[..., Image.Image]) -> np.ndarray:
    image = image.convert("RGB")
    return np.asarray(
        image
        if image.size == (side, side)
        else resize(image, (side, side), Image.Resampling.BICUBIC)
    )
