"""Small convolutions for small faces: a ViT's patch embedding, and models registered in timm."""

from typing import Any

from timm.layers import PatchEmbed
from timm.models import register_model
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """3×3 convolution, batch norm, GELU: (B, in, H, W) → (B, out, H, W).

    Args:
        halve: end with 2×2 max pooling, which halves H and W.
    """

    def __init__(self, in_channels: int, out_channels: int, *, halve: bool = False) -> None:
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        pool = [nn.MaxPool2d(2)] if halve else []
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.GELU(), *pool)


class Residual(nn.Module):
    """x + two convolution blocks of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ConvBlock(channels, channels), ConvBlock(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


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
        layers = [ConvBlock(in_chans, widths[0], halve=True)]
        for width in widths[1:]:
            layers += [ConvBlock(width // 2, width, halve=True), Residual(width)]
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))


class SmallNet(nn.Module):
    """Images (B, 3, S, S) → features (B, num_features, h, w), with what `ImageModel` reads of timm.

    Args:
        image_size: pixels, if the user gives none.
        pretrained: False; there are no published weights.
    """

    def __init__(
        self, image_size: int, num_features: int, pretrained: bool, *stages: nn.Module
    ) -> None:
        super().__init__()
        if pretrained:
            raise ValueError(
                "pretrained: face_cnn and pixel_linear have no published weights, expected none or "
                "random"
            )
        self.num_features = num_features
        self.pretrained_cfg = {
            "input_size": (3, image_size, image_size),
            "mean": (0.5,) * 3,
            "std": (0.25,) * 3,
        }
        self.stages = nn.Sequential(*stages)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.stages(images)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Features → their mean over all positions, (B, num_features)."""
        return features.mean((2, 3))


@register_model
def face_cnn(pretrained: bool = False, **options: Any) -> SmallNet:
    """9 convolutions, 3 M parameters, 0.3 GMACs at FER2013's 48 pixels.

    Takes faces at their own size, where a CNN made for ImageNet needs them enlarged. Few and wide
    layers with shortcuts (He et al. 2016, as in fast recipes for CIFAR-10) learn within few epochs.
    """
    return SmallNet(
        48,
        512,
        pretrained,
        ConvBlock(3, 32),
        ConvBlock(32, 64, halve=True),
        ConvBlock(64, 128, halve=True),
        Residual(128),
        ConvBlock(128, 256, halve=True),
        Residual(256),
        ConvBlock(256, 512),
    )


@register_model
def pixel_linear(pretrained: bool = False, **options: Any) -> SmallNet:
    """With `ImageModel`'s head, logistic regression on 32×32 pixels: the baseline of all."""
    # (B, 3, S, S) → (B, 3 · 32 · 32, 1, 1): each pixel is a feature.
    stages = nn.AdaptiveAvgPool2d(32), nn.BatchNorm2d(3), nn.PixelUnshuffle(32)
    return SmallNet(32, 3 * 32**2, pretrained, *stages)
