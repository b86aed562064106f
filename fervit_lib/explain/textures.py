"""Images that keep the shape of a face, or its texture.

After Geirhos et al. 2019 (ImageNet-trained CNNs are biased towards texture), without a network that
transfers style.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 4  # patches per side; what is left of a side is cut off


def shape_and_texture(first: Tensor, second: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Mixtures of images `first` and `second` (n, 3, S, S) uint8, for `swap_effect`.

    Returns:
        By name, (n, 3, S, S) uint8. `texture of the other`: the phases of the Fourier transform,
        which hold the shapes, are those of `first`, the amplitudes those of `second`. `patches
        shuffled`: `first` in 4 × 4 patches in a random order, which keeps the texture. `edges`: the
        size of the gradient of `first`, three times, which keeps the shape.
    """
    images = first.float()
    amplitude = torch.fft.fft2(second.float()).abs()
    swapped = torch.fft.ifft2(torch.polar(amplitude, torch.fft.fft2(images).angle())).real

    side = images.shape[-1] // GRID
    patches = F.unfold(images, side, stride=side)  # (n, 3 · side², GRID²)
    order = torch.randperm(GRID**2, generator=torch.Generator().manual_seed(seed))
    shuffled = F.fold(patches[..., order], GRID * side, side, stride=side)

    grey = images.mean(1, keepdim=True)
    edges = 3 * torch.hypot(*torch.gradient(grey, dim=(2, 3))).expand_as(images)
    mixed = {"texture of the other": swapped, "patches shuffled": shuffled, "edges": edges}
    return {name: faces.clamp(0, 255).byte() for name, faces in mixed.items()}
