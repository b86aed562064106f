"""A CNN for small faces, from random weights: `face_cnn` among timm's names."""

from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from fervit_lib.models.layers import ConvBlock, Residual

SIDE = 48  # of FER2013's faces, pixels


class FaceCNN(nn.Module):
    """Images (B, in_chans, S, S) → features (B, 512, S/8, S/8): nine convolutions, 3 million weights, 0.3 GMAC at 48.

    It sees faces at the size they come in, where a CNN made for ImageNet wants them enlarged, and has few layers,
    which learn within few epochs (He et al. 2016, with the wide and shallow blocks of CIFAR-10's fast recipes).
    """

    num_features = 512

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        self.pretrained_cfg = {
            "input_size": (in_chans, SIDE, SIDE),
            "mean": (0.5,) * 3,
            "std": (0.25,) * 3,
        }
        self.stages = nn.Sequential(
            ConvBlock(in_chans, 32),
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
        """Features → their mean over all places, (B, 512)."""
        return features.mean((2, 3))


@register_model
def face_cnn(pretrained: bool = False, **options: Any) -> FaceCNN:
    if pretrained:
        raise ValueError("face_cnn reads no file: it starts from random weights")
    return FaceCNN(options.get("in_chans", 3))
