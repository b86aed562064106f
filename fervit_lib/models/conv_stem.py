"""Patches by a few small convolutions in place of one large one: what lets a ViT learn from few images."""

from typing import Any

from timm.layers import PatchEmbed
from torch import nn


class ConvStem(PatchEmbed):
    """Images (B, 3, H, W) → tokens (B, N, embed_dim) as timm's patch embedding gives them: its `embed_layer`.

    3×3 convolutions of stride 2, each with batch norm and ReLU, double the width up to `embed_dim`; a 1×1 convolution
    ends them (Xiao et al. 2021, Early Convolutions Help Transformers See Better, section 4).

    Args:
        patch_size: pixels, a power of 2 from 4 up: one convolution for each halving.
        options: as of timm's `PatchEmbed`.

    Raises:
        ValueError: another patch size.
    """

    def __init__(self, *, patch_size: int, embed_dim: int, in_chans: int = 3, **options: Any) -> None:
        halvings = patch_size.bit_length() - 1
        if patch_size < 4 or patch_size != 2**halvings:
            raise ValueError(f"patch_size: expected a power of 2 from 4 up for stem='conv', got {patch_size}")
        super().__init__(patch_size=patch_size, embed_dim=embed_dim, in_chans=in_chans, **options)
        layers: list[nn.Module] = []
        width = in_chans
        for halving in reversed(range(halvings)):
            wider = embed_dim // 2**halving
            layers += [nn.Conv2d(width, wider, 3, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU(inplace=True)]
            width = wider
        self.proj = nn.Sequential(*layers, nn.Conv2d(width, embed_dim, 1))
