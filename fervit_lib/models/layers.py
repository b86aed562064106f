"""Layers shared by the models: adapters, position embeddings, input scaling."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from fervit_lib.latents import BANDS, layer_bands


class Adapter(nn.Module):
    """x + up(GELU(down(x))), a bottleneck (Houlsby et al. 2019, section 2.1)."""

    def __init__(self, embed_dim: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(embed_dim, bottleneck)
        self.up = nn.Linear(bottleneck, embed_dim)
        trunc_normal_(self.down.weight, std=0.02)
        # With `up` at zero the adapter starts as the identity: a pretrained model is unchanged at
        # step 0.
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.up(F.gelu(self.down(tokens)))


def with_adapters(blocks: nn.Sequential, embed_dim: int, bottleneck: int) -> nn.Sequential:
    """`blocks` with an adapter after each; unchanged if `bottleneck` is 0."""
    if not bottleneck:
        return blocks
    adapted = nn.Sequential()
    for block in blocks:
        named = {"block": block, "adapter": Adapter(embed_dim, bottleneck)}
        adapted.append(nn.Sequential(OrderedDict(named)))
    return adapted


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Take the adapters out of `model`, and put them back at the end."""
    with ExitStack() as stack:
        for module in list(model.modules()):
            blocks = dict(module.named_children()).get("blocks", ())
            if any(hasattr(block, "adapter") for block in blocks):
                module.blocks = nn.Sequential(*(block.block for block in blocks))
                stack.callback(setattr, module, "blocks", blocks)
        yield


def check_codes(w_plus: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `w_plus` is (B, *shape); `shape` is (num_tokens, latent_dim)."""
    if w_plus.shape[1:] != shape:
        raise ValueError(f"w_plus: expected (B, {shape[0]}, {shape[1]}), got {tuple(w_plus.shape)}")


def sinusoidal_positions(num_tokens: int, embed_dim: int) -> Tensor:
    """Fixed position embeddings (1, num_tokens, embed_dim), sine and cosine in turn.

    Vaswani et al. 2017, section 3.5.
    """
    position = torch.arange(num_tokens)[:, None]
    angle = position * torch.exp(torch.arange(0, embed_dim, 2) * (-math.log(10_000.0) / embed_dim))
    # (N, D/2, 2) → (N, D): sine and cosine alternate; an odd embed_dim drops the last cosine.
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[None, :, :embed_dim]


class BandPositions(nn.Module):
    """Position embedding of a code's layer: its band's (coarse, middle, fine) plus its own.

    The layers' own embeddings start at zero, so the layers of a band start equal.
    """

    def __init__(self, num_tokens: int, embed_dim: int) -> None:
        super().__init__()
        self.band = nn.Parameter(torch.zeros(len(BANDS), embed_dim))
        self.layer = nn.Parameter(torch.zeros(num_tokens, embed_dim))
        trunc_normal_(self.band, std=0.02)
        layers = layer_bands(num_tokens).values()
        band_of_layer = [i for i, band in enumerate(layers) for _ in band]
        self.register_buffer("band_of_layer", torch.tensor(band_of_layer), persistent=False)

    def forward(self) -> Tensor:
        """(1, num_tokens, embed_dim)."""
        return (self.band[self.band_of_layer] + self.layer)[None]


class LayerwiseNorm(nn.Module):
    """LayerNorm with a scale and shift per layer of a code, whose spreads differ tenfold."""

    def __init__(self, num_tokens: int, latent_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tokens, latent_dim))
        self.bias = nn.Parameter(torch.zeros(num_tokens, latent_dim))

    def forward(self, w_plus: Tensor) -> Tensor:
        return F.layer_norm(w_plus, self.weight.shape[1:]) * self.weight + self.bias


class LayerGates(nn.Module):
    """One learned weight per layer of a code, 1 at the start."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tokens))

    def forward(self, w_plus: Tensor) -> Tensor:
        return w_plus * self.weight[:, None]
