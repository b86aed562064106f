"""Face images to the tensors that encoders take, and back."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


def images_to_tensor(images: Sequence[Image.Image], size: int) -> Tensor:
    """PIL images of any mode and size → (B, 3, size, size) float32 RGB in [-1, 1]."""
    return normalise(stack_faces([resize_face(image, size) for image in images]))


def resize_face(image: Image.Image, size: int) -> np.ndarray:
    """A PIL image of any mode → (size, size, 3) uint8 RGB, bilinear with antialias as pSp does."""
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


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
