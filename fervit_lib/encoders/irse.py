"""The IR-SE backbone of pSp and e4e: ArcFace's improved residual units with squeeze-and-excitation.

Deng et al. 2019, section 3.2. Parameters are named as in the published checkpoints: `res_layer.0`
to `res_layer.5.fc2`, `shortcut_layer.0` and `.1`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# (channels, units) of the four stages of IR-SE50; the first unit of each halves the map.
STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
SE_REDUCTION = 16


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate in (0, 1) computed from the means of all channels.

    Hu et al. 2018, section 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // SE_REDUCTION, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // SE_REDUCTION, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))


class Unit(nn.Module):
    """One residual unit, (B, in_channels, S, S) → (B, channels, S / stride, S / stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            SqueezeExcite(channels),
        )
        self.shortcut_layer = None
        if in_channels != channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut_layer is None:
            # Equals the original's max pooling with a window of one pixel, without its copy.
            shortcut = x[:, :, :: self.stride, :: self.stride]
        else:
            shortcut = self.shortcut_layer(x)
        return self.res_layer(x) + shortcut


def build_body(stages: Sequence[tuple[int, int]]) -> nn.Sequential:
    """All units of all stages in one sequence, numbered as in the checkpoints: 24 for IR-SE50."""
    in_channels = stages[0][0]
    units = []
    for channels, num_units in stages:
        for i in range(num_units):
            units.append(Unit(in_channels, channels, stride=2 if i == 0 else 1))
            in_channels = channels
    return nn.Sequential(*units)
