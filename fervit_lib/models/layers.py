"""Parts that the models share: adapters, convolutions, token positions, and what may be done to a code on entry."""

import math

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from fervit_lib.latents import BANDS


class Adapter(nn.Module):
    """x + up(GELU(down(x))), a bottleneck (Houlsby et al. 2019, section 2.1). `up` starts at 0: the identity."""

    def __init__(self, embed_dim: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(embed_dim, bottleneck)
        self.up = nn.Linear(bottleneck, embed_dim)
        trunc_normal_(self.down.weight, std=0.02)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.up(F.gelu(self.down(tokens)))


class AdaptedBlock(nn.Module):
    """A transformer block followed by an adapter."""

    def __init__(self, block: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.block, self.adapter = block, adapter

    def forward(self, tokens: Tensor) -> Tensor:
        return self.adapter(self.block(tokens))


def with_adapters(blocks: nn.Sequential, embed_dim: int, bottleneck: int) -> nn.Sequential:
    """`blocks` with an adapter behind each; as they are where `bottleneck` is 0."""
    if not bottleneck:
        return blocks
    return nn.Sequential(*(AdaptedBlock(block, Adapter(embed_dim, bottleneck)) for block in blocks))


class ConvBlock(nn.Sequential):
    """(B, in, h, w) → (B, out, h, w), or half the side: convolution, batch norm, GELU, and the largest of four."""

    def __init__(self, in_channels: int, out_channels: int, *, halve: bool = False) -> None:
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        pool = [nn.MaxPool2d(2)] if halve else []
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.GELU(), *pool)


class Residual(nn.Module):
    """x + two blocks of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ConvBlock(channels, channels), ConvBlock(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


def sinusoidal_positions(num_tokens: int, embed_dim: int) -> Tensor:
    """(1, num_tokens, embed_dim): sines in the even places, cosines in the odd (Vaswani et al. 2017, section 3.5)."""
    place = torch.arange(num_tokens)[:, None]
    angle = place * torch.exp(torch.arange(0, embed_dim, 2) * (-math.log(10_000.0) / embed_dim))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[None, :, :embed_dim]


class BandPositions(nn.Module):
    """Place of a layer as its band (coarse, middle, fine) plus the layer itself: layers of a band start out alike."""

    def __init__(self, num_tokens: int, embed_dim: int) -> None:
        super().__init__()
        self.band = nn.Parameter(torch.zeros(len(BANDS), embed_dim))
        self.layer = nn.Parameter(torch.zeros(num_tokens, embed_dim))
        trunc_normal_(self.band, std=0.02)
        bands = torch.zeros(num_tokens, dtype=torch.long)
        for index, band in enumerate(BANDS.values()):
            bands[band] = index
        self.register_buffer("bands", bands, persistent=False)

    def forward(self) -> Tensor:
        """(1, num_tokens, embed_dim)."""
        return (self.band[self.bands] + self.layer)[None]


class LayerwiseNorm(nn.Module):
    """LayerNorm with its own scale and shift for each layer of a code: layers differ in spread by an order."""

    def __init__(self, num_tokens: int, latent_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tokens, latent_dim))
        self.bias = nn.Parameter(torch.zeros(num_tokens, latent_dim))

    def forward(self, w_plus: Tensor) -> Tensor:
        return F.layer_norm(w_plus, w_plus.shape[-1:]) * self.weight + self.bias


class LayerGates(nn.Module):
    """One learned weight for each layer of a code, 1 at the start."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tokens))

    def forward(self, w_plus: Tensor) -> Tensor:
        return w_plus * self.weight[:, None]
