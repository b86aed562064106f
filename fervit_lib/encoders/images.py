"""Faces to the tensors that encoders take, and back."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from fervit_lib.datasets import FaceDataset, hash_faces, manifest_path, sample_by_content
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.progress import progress


def images_to_tensor(images: Sequence[Image.Image], size: int) -> Tensor:
    """PIL images of any mode and size → (B, 3, size, size) float32 RGB in [-1, 1]."""
    return normalise(stack_faces([resize_face(image, size) for image in images]))


def resize_face(image: Image.Image, size: int) -> np.ndarray:
    """A PIL image of any mode → (size, size, 3) uint8 RGB, bilinear with antialias as pSp does."""
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def sample_faces(faces: FaceDataset, most: int, store: Path) -> FaceDataset:
    """Up to `most` faces, to fit and to test on.

    They are chosen by their content, so that the sample hardly changes when faces are added.

    Args:
        store: the folder of the codes, beside which the hashes of the faces are kept.
    """
    return faces.subset(sample_by_content(hash_faces(faces, manifest_path(store)), most))


def read_aligned(
    faces: FaceDataset,
    size: int,
    align: Callable[[Image.Image], Image.Image] | None,
    pool: PrefetchPool,
    ahead: int = 256,
) -> Iterator[np.ndarray]:
    """Faces (size, size, 3) uint8 in order, read ahead: Pillow releases Python's lock.

    Args:
        align: crops the face out of an image, before it is resized; None: whole images.
    """

    def read(index: int) -> np.ndarray:
        image, _ = faces[index]
        return resize_face(align(image) if align else image, size)

    return pool.map(read, range(len(faces)), faces.file, ahead)


def read_images(
    faces: FaceDataset, align: Callable[[Image.Image], Image.Image], size: int
) -> Tensor:
    """Faces as images (n, 3, size, size) in [-1, 1]; see `read_aligned`."""
    with PrefetchPool() as pool:
        read = read_aligned(faces, size, align, pool)
        bar = progress(read, desc="read faces", unit=" faces", total=len(faces))
        return normalise(stack_faces(list(bar)))


def stack_faces(pixels: Sequence[np.ndarray]) -> Tensor:
    """Arrays (S, S, 3) → (B, 3, S, S) uint8, channels-last in memory, which convolutions prefer."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def normalise(pixels: Tensor) -> Tensor:
    """[0, 255] → float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def tensor_to_images(tensor: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1], clipped → PIL images in RGB."""
    pixels = tensor.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]


# Small enough to keep the expression, large enough that the position in the image does not identify
# the face.
_SHIFT = v2.RandomAffine(
    degrees=5, translate=(0.03, 0.03), scale=(0.95, 1.05), interpolation=InterpolationMode.BILINEAR
)


def change_view(images: Tensor, view: int, seeds: Sequence[int]) -> Tensor:
    """Another view of the same faces: 0 the original, 1 mirrored, from 2 on slightly shifted.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        view: odd views are mirrored.
        seeds: (B,) one per image, of its shift; the global random state is unchanged.
    """
    if view % 2:
        images = images.flip(-1)
    if view < 2:
        return images
    shifted = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds, strict=True):
            torch.manual_seed((seed + 1_000_003 * view) % 2**63)
            shifted.append(_SHIFT(image))
    return torch.stack(shifted)
