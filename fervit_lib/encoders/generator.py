"""The generator of StyleGAN2: `w+` codes to pictures, after Karras et al. 2020, section 2.

Checkpoints of pSp and e4e hold it beside their encoder, as `decoder.*`, with the parameters named
as here (github.com/rosinality/stylegan2-pytorch, MIT).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.encoders.style_encoder import IMG_SIZE, EqualLinear, num_styles

# The low-pass filter of section 2.3 in one direction; a picture of twice the size has four times as
# many pixels, so that its sum is 4.
_FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])
_GAIN = math.sqrt(2)  # of the leaky rectifier, which keeps the variance


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * _GAIN


class MappingLayer(EqualLinear):
    """A layer of the mapping network, whose learning rate is a hundredth of the others'."""

    def forward(self, x: Tensor) -> Tensor:
        return _activate(0.01 * super().forward(x))


def build_mapping(dim: int) -> nn.Sequential:
    """The mapping network: random vectors (B, dim) to codes of the generator's own, (B, dim)."""
    norm = nn.RMSNorm(dim, eps=1e-8, elementwise_affine=False)
    return nn.Sequential(norm, *(MappingLayer(dim, dim) for _ in range(8)))


class Blur(nn.Module):
    """The low-pass filter, `kernel` (4, 4): as it is, or while a picture is doubled in size."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _FILTER.outer(_FILTER) / 16)

    def forward(self, x: Tensor) -> Tensor:
        """Of what a transposed convolution made, (B, C, S + 1, S + 1) → (B, C, S, S)."""
        kernel = self.kernel.flip(0, 1).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, padding=1, groups=x.shape[1])

    def double(self, x: Tensor) -> Tensor:
        """(B, C, S, S) → (B, C, 2 S, 2 S)."""
        kernel = self.kernel.expand(x.shape[1], 1, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style (B, dim), see section 2.2.

    The maps are scaled instead of the weights, which gives the same: so all pictures of a batch
    share one convolution.

    Args:
        double: the map has twice the size afterwards.
    """

    def __init__(
        self, in_channels: int, channels: int, size: int, dim: int, double: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, in_channels, size, size))
        self.modulation = EqualLinear(dim, in_channels)
        nn.init.ones_(self.modulation.bias)
        self.blur = Blur() if double else None

    def forward(self, x: Tensor, style: Tensor, demodulate: bool = True) -> Tensor:
        weight = self.weight[0]
        # (B, in_channels), with the factor of the equalised learning rate.
        scale = self.modulation(style).to(x) / math.sqrt(weight[0].numel())
        x = x * scale[..., None, None]
        if self.blur is None:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        if not demodulate:
            return x
        # What scales the weights of each output channel to a norm of 1.
        norm = scale.square() @ weight.square().sum((2, 3)).T
        return x * norm.add(1e-8).rsqrt()[..., None, None]


class StyledConv(nn.Module):
    """(B, in_channels, S, S) → (B, channels, S, S), or 2 S, with noise added to each pixel."""

    def __init__(self, in_channels: int, channels: int, dim: int, double: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(in_channels, channels, 3, dim, double)
        self.noise = nn.ParameterDict({"weight": torch.zeros(1)})
        self.activate = nn.ParameterDict({"bias": torch.zeros(channels)})

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        x = self.conv(x, style) + self.noise["weight"] * noise
        return _activate(x + self.activate["bias"][:, None, None])


class ToRGB(nn.Module):
    """A map (B, channels, S, S), and the picture of half the size so far → (B, 3, S, S)."""

    def __init__(self, channels: int, dim: int, is_first: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, 3, 1, dim)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = None if is_first else Blur()

    def forward(self, x: Tensor, style: Tensor, picture: Tensor | None = None) -> Tensor:
        added = self.conv(x, style, demodulate=False) + self.bias
        return added if self.upsample is None else added + self.upsample.double(picture)


class Generator(nn.Module):
    """`w_plus` (B, num_styles, dim) → pictures (B, 3, S, S), RGB, [-1, 1] but for overshoots.

    Args:
        output_size: the largest S, a power of two.
        dim: width of a code; 512 in the published checkpoints.

    Attributes:
        mean_code: (num_styles, dim), the mean of the generator's own codes; zeros until a
            checkpoint is loaded.
    """

    def __init__(self, output_size: int = 1024, dim: int = 512) -> None:
        super().__init__()
        styles = num_styles(output_size)
        sizes = [2**power for power in range(2, styles // 2 + 2)]  # 4, 8, …, output_size
        channels = [min(dim, 64 * dim // size) for size in sizes]
        self.style = build_mapping(dim)
        self.input = nn.ParameterDict({"input": torch.randn(1, dim, 4, 4)})
        self.conv1 = StyledConv(dim, dim, dim)
        self.to_rgb1 = ToRGB(dim, dim, is_first=True)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        self.noises = nn.Module()
        self.noises.register_buffer("noise_0", torch.randn(1, 1, 4, 4))
        for i, size in enumerate(sizes[1:]):
            before, after = channels[i : i + 2]
            self.convs += [
                StyledConv(before, after, dim, double=True),
                StyledConv(after, after, dim),
            ]
            self.to_rgbs.append(ToRGB(after, dim))
            for number in (2 * i + 1, 2 * i + 2):
                self.noises.register_buffer(f"noise_{number}", torch.randn(1, 1, size, size))
        self.register_buffer("mean_code", torch.zeros(styles, dim), persistent=False)

    def forward(self, w_plus: Tensor, size: int | None = None) -> Tensor:
        """Draw codes.

        Args:
            size: draw the picture up to this resolution, a power of two of at least 4; None: all.
                A smaller picture lacks the details that later layers add, and takes less time.

        Raises:
            ValueError: the shape of `w_plus` is not (B, num_styles, dim).
        """
        if w_plus.shape[1:] != self.mean_code.shape:
            raise ValueError(
                f"w_plus: expected codes (B, {', '.join(map(str, self.mean_code.shape))}), got "
                f"{tuple(w_plus.shape)}; give codes of this generator's encoder"
            )
        start = self.input["input"]
        styles = w_plus.to(start.device, torch.float32).unbind(1)
        noise = list(self.noises.buffers())
        # Convolutions keep this layout, and take less time in it on a CPU.
        start = start.repeat(len(w_plus), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        x = self.conv1(start, styles[0], noise[0])
        picture = self.to_rgb1(x, styles[1])
        for i, to_rgb in enumerate(self.to_rgbs):
            if picture.shape[-1] == size:
                break
            # A resolution has three styles, and shares the last with the next one.
            first = 2 * i + 1
            x = self.convs[2 * i](x, styles[first], noise[first])
            x = self.convs[2 * i + 1](x, styles[first + 1], noise[first + 1])
            picture = to_rgb(x, styles[first + 2], picture)
        return picture.float()

    def to_bfloat16(self) -> None:
        """Compute in bf16, but for what reads a code: rounded codes would hide small changes."""
        for part in self.children():  # not the mean code, a buffer of its own
            part.bfloat16()
        for part in self.modules():
            if isinstance(part, ModulatedConv):
                part.modulation.float()

    def decode(self, w_plus: Tensor) -> Tensor:
        """Pictures (B, 3, 256, 256) of codes, from all layers, at the size that encoders read."""
        # In small parts, as maps of 1024×1024 pixels take much memory.
        parts = [F.adaptive_avg_pool2d(self(part), IMG_SIZE) for part in w_plus.split(8)]
        return torch.cat(parts)
