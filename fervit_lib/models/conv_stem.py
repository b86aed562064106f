"""Patches by small convolutions in place of one large one: what lets a ViT learn from few images."""

from typing import Any

from timm.layers import PatchEmbed
from torch import nn

from fervit_lib.models.layers import ConvBlock, Residual


class ConvStem(PatchEmbed):
    """Images (B, 3, H, W) → tokens (B, N, embed_dim) as timm's patch embedding gives them: its `embed_layer`.

    A 3×3 convolution with max pooling for each halving of the side (Hassani et al. 2021, Escaping the Big Data Paradigm
    with Compact Transformers, section 3), which doubles the width up to `embed_dim`, and two more with a shortcut after
    each but the first; a 1×1 convolution ends them (Xiao et al. 2021, Early Convolutions Help Transformers See Better).

    Args:
        patch_size: pixels, a power of 2 from 4 up: a halving for each power.
        options: as of timm's `PatchEmbed`.

    Raises:
        ValueError: another patch size.
    """

    def __init__(
        self, *, patch_size: int, embed_dim: int, in_chans: int = 3, **options: Any
    ) -> None:
        halvings = patch_size.bit_length() - 1
        if patch_size < 4 or patch_size != 2**halvings:
            raise ValueError(
                f"patch_size: expected a power of 2 from 4 up for stem='conv', got {patch_size}"
            )
        super().__init__(patch_size=patch_size, embed_dim=embed_dim, in_chans=in_chans, **options)
        widths = [embed_dim // 2**halving for halving in reversed(range(halvings))]
        layers: list[nn.Module] = [ConvBlock(in_chans, widths[0], halve=True)]
        for width, wider in zip(widths, widths[1:], strict=False):
            layers += [ConvBlock(width, wider, halve=True), Residual(wider)]
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))
