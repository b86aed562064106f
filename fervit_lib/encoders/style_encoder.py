"""The architecture of pSp and e4e: face photographs to the `w+` codes of a StyleGAN2.

Richardson et al. 2021 (pSp, section 3.1) read 18 codes from three maps of a feature pyramid over
IR-SE50, ArcFace's improved residual units with squeeze-and-excitation (Deng et al. 2019, section
3.2). Tov et al. 2021 (e4e, section 4.2) take the first as a base and the others as offsets from
it. ReStyle (Alaluf et al. 2021, sections 3 and 4) reads all codes from the last map, of the face
and of what the generator draws of the codes so far, and corrects these several times. Parameters
are named as in the published checkpoints (github.com/eladrich/pixel2style2pixel,
github.com/omertov/encoder4editing and github.com/yuval-alaluf/restyle-encoder, MIT).
"""

import itertools
import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import SEModule
from torch import Tensor, nn

from fervit_lib.latents import BANDS
from fervit_lib.system.names import check_choice

# (channels, units) of the four stages of IR-SE50; the first unit of each halves the map.
STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
SE_REDUCTION = 16
IMG_SIZE = 256
ITERATIONS = 5  # of ReStyle, as published
STYLE_KINDS = ("psp", "e4e", "restyle_psp", "restyle_e4e")
MAP_SIZES = {"coarse": IMG_SIZE // 16, "middle": IMG_SIZE // 8, "fine": IMG_SIZE // 4}
# A rule of thumb: w+ codes of real faces lie farther out than StyleGAN's own, in the same order of
# magnitude.
MIN_FACTOR = 0.05
MAX_FACTOR = 5.0


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
            # Squeeze and excitation, Hu et al. 2018, section 3.
            SEModule(channels, rd_channels=channels // SE_REDUCTION, bias=False),
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


class EqualLinear(nn.Module):
    """StyleGAN's linear layer with equalised learning rate: the weight is scaled by 1/√dim."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, dim))
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)


class StyleBlock(nn.Module):
    """A map (B, dim, S, S), S a power of two, halved down to one pixel → one code (B, dim)."""

    def __init__(self, dim: int, map_size: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for _ in range(int(math.log2(map_size))):
            self.convs.extend([nn.Conv2d(dim, dim, 3, stride=2, padding=1), nn.LeakyReLU(0.01)])
        self.linear = EqualLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


def num_styles(output_size: int) -> int:
    """Number of codes of a StyleGAN2 of this output size: 18 for 1024, 16 for 512, 14 for 256."""
    if output_size < 32 or output_size & (output_size - 1):
        raise ValueError(
            f"output_size: expected a power of two of at least 32, got {output_size!r}"
        )
    return 2 * int(math.log2(output_size)) - 2


class StyleEncoder(nn.Module):
    """Images (B, 3, 256, 256) RGB in [-1, 1] → `w_plus` (B, num_styles, dim) float32.

    dim is the width of the last stage, 512 for the published encoders.

    Args:
        kind: psp: every style block gives a code; e4e: the first gives a code, the others offsets
            from it; restyle_psp and restyle_e4e: what they give corrects codes.
        output_size: height and width in pixels of the images of the StyleGAN whose codes these are.
        stages: (channels, units) of the backbone's four stages.

    Attributes:
        generator: draws the codes for ReStyle; None for pSp and e4e.
        iterations: how often ReStyle corrects its codes.
        latent_avg: (num_styles, dim) float32, mean code of the StyleGAN; zeros until a checkpoint
            is loaded.
        starts_from_latent_avg: whether `latent_avg` is added to the network's output.
        w_distance: median distance of the StyleGAN's own codes from `latent_avg`; None: unknown.
    """

    img_size = IMG_SIZE

    def __init__(
        self, kind: str, output_size: int = 1024, stages: Sequence[tuple[int, int]] = STAGES
    ) -> None:
        super().__init__()
        check_choice("kind", kind, STYLE_KINDS)
        self.kind = kind
        self.generator: nn.Module | None = None
        self.iterations = ITERATIONS
        iterates = kind.startswith("restyle")
        first, fine, middle, dim = (channels for channels, _ in stages)
        self.input_layer = nn.Sequential(
            nn.Conv2d(6 if iterates else 3, first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.PReLU(first),
        )
        self.body = build_body(stages)
        # The units after which the fine and the middle map are taken; the coarse one is the last.
        _, self.fine_end, self.middle_end, _ = itertools.accumulate(units for _, units in stages)
        layers = range(num_styles(output_size))
        self.styles = nn.ModuleList(
            StyleBlock(dim, MAP_SIZES["coarse"] if iterates else size)
            for band, size in MAP_SIZES.items()
            for _ in layers[BANDS[band]]
        )
        if not iterates:
            self.latlayer1 = nn.Conv2d(middle, dim, 1)
            self.latlayer2 = nn.Conv2d(fine, dim, 1)
        # Not persistent: checkpoints keep it outside the encoder's state dict.
        self.register_buffer("latent_avg", torch.zeros(len(self.styles), dim), persistent=False)
        self.starts_from_latent_avg = False
        self.w_distance: float | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Raises:
            ValueError: another shape than (B, 3, 256, 256).
        """
        if images.ndim != 4 or images.shape[1:] != (3, IMG_SIZE, IMG_SIZE):
            raise ValueError(
                f"images: expected (B, 3, {IMG_SIZE}, {IMG_SIZE}) in [-1, 1], got "
                f"{tuple(images.shape)}; resize or crop the faces, see images_to_tensor and "
                f"ffhq_crop"
            )
        start = self.latent_avg * self.starts_from_latent_avg
        if self.generator is None:
            return start + self._read(images)
        drawn = self.latent_avg[None]
        for _ in range(self.iterations):
            picture = self.generator.decode(drawn)
            drawn = start + self._read(torch.cat([images, picture.expand_as(images)], dim=1))
            start = drawn
        return drawn

    def _read(self, images: Tensor) -> Tensor:
        """The codes in images (B, 3, S, S), or corrections from those and drawn ones, (B, 6, S, S).

        Of shape (B, num_styles, dim), without `latent_avg`.
        """
        x = self.input_layer(images.to(self.input_layer[0].weight.dtype))
        fine = self.body[: self.fine_end](x)  # 128 @ 64²
        middle = self.body[self.fine_end : self.middle_end](fine)  # 256 @ 32²
        coarse = self.body[self.middle_end :](middle)  # 512 @ 16²
        maps = dict.fromkeys(MAP_SIZES, coarse)
        if hasattr(self, "latlayer1"):
            maps["middle"] = _upsample_add(coarse, self.latlayer1(middle))
            maps["fine"] = _upsample_add(maps["middle"], self.latlayer2(fine))
        codes = [style(maps[band]) for band in maps for style in self.styles[BANDS[band]]]
        w_plus = torch.stack(codes, dim=1).float()
        if self.kind.endswith("e4e"):
            base = w_plus[:, :1]  # (B, 1, dim), added to each of the other codes
            w_plus = torch.cat([base, base + w_plus[:, 1:]], dim=1)
        return w_plus


def _upsample_add(coarse: Tensor, lateral: Tensor) -> Tensor:
    return F.interpolate(coarse, lateral.shape[-2:], mode="bilinear", align_corners=True) + lateral


def distance_from_average(codes: Tensor, encoder: StyleEncoder) -> Tensor:
    """(N,) Euclidean distance of codes (N, layers, 512) from `latent_avg`, mean over the layers."""
    return (codes.float() - encoder.latent_avg.cpu()).norm(dim=-1).mean(-1)


def check_domain(distance: Tensor, encoder: StyleEncoder) -> tuple[float, float, float]:
    """Warn if the median of `distance` (N,) is far from the usual one.

    Returns:
        The usual distance, that of the StyleGAN's own codes (the length of `latent_avg` if the
        checkpoint has no mapping network); and the lowest and highest median without a warning.
    """
    usual = encoder.w_distance or encoder.latent_avg.norm(dim=-1).mean().item()
    low = MIN_FACTOR * usual
    high = MAX_FACTOR * usual
    median = distance.median().item()
    if not low <= median <= high:
        warnings.warn(
            f"codes look off-domain: their median distance from latent_avg is {median:.3g}, "
            f"expected {low:.3g} to {high:.3g}; check that the faces are upright and fill the "
            f"image, and that the checkpoint is the right one",
            stacklevel=2,
        )
    return usual, low, high
