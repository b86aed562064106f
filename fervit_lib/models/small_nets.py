"""Models for small faces, trained from random weights; registered in timm by name."""

from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from fervit_lib.models.layers import ConvBlock, Residual


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
