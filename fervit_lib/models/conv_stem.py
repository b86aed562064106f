"""Patch embedding by small convolutions, for training a ViT on few images."""

from typing import Any

from timm.layers import PatchEmbed
from torch import nn

from fervit_lib.models.layers import ConvBlock, Residual


class ConvStem(PatchEmbed):
    """Images (B, 3, H, W) → tokens (B, N, embed_dim); for timm's `embed_layer`.

    One 3×3 convolution with max pooling per halving of the side (Hassani et al. 2021, Escaping the
    Big Data Paradigm with Compact Transformers, section 3). Each doubles the width, up to
    `embed_dim`; a residual block follows each but the first. A 1×1 convolution comes last (Xiao et
    al. 2021, Early Convolutions Help Transformers See Better).

    Args:
        patch_size: pixels, a power of 2 of at least 4.
        options: keywords of timm's `PatchEmbed`.

    Raises:
        ValueError: another patch size.
    """

    def __init__(
        self, *, patch_size: int, embed_dim: int, in_chans: int = 3, **options: Any
    ) -> None:
        num_halvings = patch_size.bit_length() - 1
        if patch_size < 4 or patch_size != 2**num_halvings:
            raise ValueError(
                f"patch_size: expected a power of 2 of at least 4 for stem='conv', got {patch_size}"
            )
        super().__init__(patch_size=patch_size, embed_dim=embed_dim, in_chans=in_chans, **options)
        widths = [embed_dim // 2**exponent for exponent in reversed(range(num_halvings))]
        layers: list[nn.Module] = [ConvBlock(in_chans, widths[0], halve=True)]
        for width in widths[1:]:
            layers += [ConvBlock(width // 2, width, halve=True), Residual(width)]
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))
