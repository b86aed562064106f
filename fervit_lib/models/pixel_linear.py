"""A linear classifier on pixels, the baseline of all; registered in timm as `pixel_linear`."""

from typing import Any

from timm.models import register_model
from torch import Tensor, nn

IMAGE_SIZE = 32  # pixels


class PixelLinear(nn.Module):
    """Images (B, 3, S, S) → (B, 3, 32, 32): with `ImageModel`'s head, logistic regression."""

    num_features = 3 * IMAGE_SIZE**2

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {
            "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
            "mean": (0.5,) * 3,
            "std": (0.25,) * 3,
        }
        self.stages = nn.Sequential(nn.AdaptiveAvgPool2d(IMAGE_SIZE), nn.BatchNorm2d(3))

    def forward_features(self, images: Tensor) -> Tensor:
        return self.stages(images)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Features → (B, 3072)."""
        return features.flatten(1)


@register_model
def pixel_linear(pretrained: bool = False, **options: Any) -> PixelLinear:
    if pretrained:
        raise ValueError("pretrained: pixel_linear has no published weights, expected none")
    return PixelLinear()
