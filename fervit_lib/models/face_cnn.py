"""A CNN for small faces, trained from random weights; registered in timm as `face_cnn`."""

from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from fervit_lib.models.layers import ConvBlock, Residual

IMAGE_SIZE = 48  # FER2013's, pixels


class FaceCNN(nn.Module):
    """Images (B, 3, S, S) → features (B, 512, S/8, S/8).

    9 convolutions, 3 M parameters, 0.3 GMACs at 48 pixels.

    Takes faces at their own size, where a CNN made for ImageNet needs them enlarged. Few and wide
    layers with shortcuts (He et al. 2016, as in fast recipes for CIFAR-10) learn within few epochs.
    """

    num_features = 512

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {
            "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
            "mean": (0.5,) * 3,
            "std": (0.25,) * 3,
        }
        self.stages = nn.Sequential(
            ConvBlock(3, 32),
            ConvBlock(32, 64, halve=True),
            ConvBlock(64, 128, halve=True),
            Residual(128),
            ConvBlock(128, 256, halve=True),
            Residual(256),
            ConvBlock(256, self.num_features),
        )

    def forward_features(self, images: Tensor) -> Tensor:
        return self.stages(images)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Features → their mean over all positions, (B, 512)."""
        return features.mean((2, 3))


@register_model
def face_cnn(pretrained: bool = False, **options: Any) -> FaceCNN:
    if pretrained:
        raise ValueError("pretrained: face_cnn has no published weights, expected none or random")
    return FaceCNN()
