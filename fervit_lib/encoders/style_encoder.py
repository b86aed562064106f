"""pSp and e4e: face photographs to the `w+` codes of a StyleGAN2, from the architecture of the published encoders.

Richardson et al. 2021 (pSp, section 3.1) read 18 codes from three maps of a feature pyramid over IR-SE50; Tov et al.
2021 (e4e, section 4.2) take the first as a base and the others as offsets from it. Parameters are named as in the
published checkpoints (github.com/eladrich/pixel2style2pixel and github.com/omertov/encoder4editing, MIT).
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.encoders.irse import STAGES, build_body
from fervit_lib.latents import BANDS

IMG_SIZE = 256
STYLE_KINDS = ("psp", "e4e")


class EqualLinear(nn.Module):
    """StyleGAN's linear layer with an equalised learning rate: the weight is scaled by 1/√dim when used."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)


class StyleBlock(nn.Module):
    """A map (B, dim, S, S), S a power of two, halved until one pixel is left → one code (B, dim)."""

    def __init__(self, dim: int, map_size: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for _ in range(int(math.log2(map_size))):
            self.convs.extend([nn.Conv2d(dim, dim, 3, stride=2, padding=1), nn.LeakyReLU(0.01)])
        self.linear = EqualLinear(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


def num_styles(output_size: int) -> int:
    """Codes that a StyleGAN2 of this output size takes: 18 for 1024, 16 for 512, 14 for 256."""
    if output_size < 32 or output_size & (output_size - 1):
        raise ValueError(f"output_size: expected a power of two from 32 up, got {output_size!r}")
    return 2 * int(math.log2(output_size)) - 2


class StyleBand(nn.Module):
    """Style blocks that read the same map, as one: a wide convolution, then grouped ones, then one product per code.

    (B, dim, S, S) → (B, len(blocks), dim), the same numbers as the blocks give one by one up to rounding.
    """

    def __init__(self, blocks: Sequence[StyleBlock]) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for position, conv in enumerate(blocks[0].convs):
            if not isinstance(conv, nn.Conv2d):
                self.convs.append(nn.LeakyReLU(0.01))
                continue
            first = position == 0
            wide = nn.Conv2d(
                conv.in_channels * (1 if first else len(blocks)),
                conv.out_channels * len(blocks),
                3,
                stride=2,
                padding=1,
                groups=1 if first else len(blocks),
                device="meta",
            )
            wide.weight = nn.Parameter(
                torch.cat([block.convs[position].weight for block in blocks]), False
            )
            wide.bias = nn.Parameter(
                torch.cat([block.convs[position].bias for block in blocks]), False
            )
            self.convs.append(wide)
        scale = math.sqrt(blocks[0].linear.weight.shape[1])
        self.weight = nn.Parameter(
            torch.stack([block.linear.weight.T / scale for block in blocks]), False
        )
        self.bias = nn.Parameter(
            torch.stack([block.linear.bias for block in blocks])[:, None], False
        )

    def forward(self, x: Tensor) -> Tensor:
        codes = (
            self.convs(x).flatten(1).unflatten(1, (len(self.weight), -1)).transpose(0, 1)
        )  # (n, B, dim)
        return torch.baddbmm(self.bias, codes, self.weight).transpose(0, 1)


class StyleEncoder(nn.Module):
    """Images (B, 3, 256, 256) RGB in [-1, 1] → `w_plus` (B, num_styles, dim) float32; dim is the last stage's width.

    Args:
        kind: psp, every style block gives a code; or e4e, the first gives a code and the others what is added to it.
        output_size: side in pixels of the images of the StyleGAN whose codes these are.
        stages: (channels, units) of the backbone's four stages.

    Attributes:
        latent_avg: (num_styles, dim) float32, mean code of the StyleGAN; zeros until a checkpoint is loaded.
        starts_from_latent_avg: whether `latent_avg` is added to what the network says.
        w_distance: distance from `latent_avg` at which the StyleGAN's own codes lie, median; None: not known.
    """

    img_size = IMG_SIZE

    def __init__(
        self, kind: str, output_size: int = 1024, stages: Sequence[tuple[int, int]] = STAGES
    ) -> None:
        super().__init__()
        if kind not in STYLE_KINDS:
            raise ValueError(f"kind: expected {' or '.join(STYLE_KINDS)}, got {kind!r}")
        self.kind = kind
        first, fine, middle, dim = (channels for channels, _ in stages)
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first)
        )
        self.body = build_body(stages)
        ends = list(itertools.accumulate(units for _, units in stages))
        self.taps = (slice(0, ends[1]), slice(ends[1], ends[2]), slice(ends[2], ends[3]))
        band_sizes = {"coarse": IMG_SIZE // 16, "middle": IMG_SIZE // 8, "fine": IMG_SIZE // 4}
        layers = range(num_styles(output_size))
        self.styles = nn.ModuleList(
            StyleBlock(dim, size) for band, size in band_sizes.items() for _ in layers[BANDS[band]]
        )
        self.bands = nn.ModuleDict()
        self.latlayer1 = nn.Conv2d(middle, dim, 1)
        self.latlayer2 = nn.Conv2d(fine, dim, 1)
        # Not a parameter of the checkpoint's `encoder.*`, so not persistent here.
        self.register_buffer("latent_avg", torch.zeros(len(self.styles), dim), persistent=False)
        self.starts_from_latent_avg = False
        self.w_distance: float | None = None

    def group_styles(self) -> "StyleEncoder":
        """Let the style blocks of a band run together, see `StyleBand`. The blocks are given up for it."""
        for name, band in BANDS.items():
            self.bands[name] = StyleBand(self.styles[band])
        self.styles = nn.ModuleList()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Encode. Raises ValueError for anything but (B, 3, 256, 256)."""
        if images.ndim != 4 or images.shape[1:] != (3, IMG_SIZE, IMG_SIZE):
            raise ValueError(
                f"images: expected (B, 3, {IMG_SIZE}, {IMG_SIZE}) in [-1, 1], got {tuple(images.shape)}; resize or "
                f"crop the faces, as images_to_tensor and ffhq_crop do"
            )
        x = self.input_layer(images.to(self.latlayer1.weight.dtype))
        fine = self.body[self.taps[0]](x)  # 128 @ 64²
        middle = self.body[self.taps[1]](fine)  # 256 @ 32²
        coarse = self.body[self.taps[2]](middle)  # 512 @ 16²
        middle = _upsample_add(coarse, self.latlayer1(middle))
        fine = _upsample_add(middle, self.latlayer2(fine))
        maps = {"coarse": coarse, "middle": middle, "fine": fine}
        if self.bands:
            codes = torch.cat(
                [self.bands[name](features) for name, features in maps.items()], dim=1
            )
        else:
            codes = torch.stack(
                [style(maps[name]) for name in maps for style in self.styles[BANDS[name]]], dim=1
            )
        codes = codes.float()
        if self.kind == "e4e":
            codes = torch.cat([codes[:, :1], codes[:, :1] + codes[:, 1:]], dim=1)
        return codes + self.latent_avg if self.starts_from_latent_avg else codes


def _upsample_add(coarse: Tensor, lateral: Tensor) -> Tensor:
    return F.interpolate(coarse, lateral.shape[-2:], mode="bilinear", align_corners=True) + lateral
