"""Codes as pictures, by the autoencoder's own decoder or by the generator of StyleGAN2.

A decoder has `decode`, codes (B, num_layers, 512) → pictures (B, 3, S, S), and `mean_code`.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fervit_lib.encoders.autoencoder import load_autoencoder
from fervit_lib.encoders.encode import encoder_dtype
from fervit_lib.encoders.generator import Generator
from fervit_lib.encoders.images import tensor_to_images
from fervit_lib.encoders.load import check_kind
from fervit_lib.encoders.published import load_generator
from fervit_lib.latents import BANDS


def load_decoder(checkpoint: Path | str, kind: str) -> Any:
    """The decoder of the codes that the encoder in a checkpoint makes.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: unknown kind; a checkpoint without a decoder, or damaged.
    """
    check_kind(kind)
    checkpoint = Path(checkpoint)
    return load_autoencoder(checkpoint) if kind == "autoencoder" else load_generator(checkpoint)


def draws_slowly(decoder: Any) -> bool:
    """Whether a picture takes seconds: by a generator on a CPU."""
    return isinstance(decoder, Generator) and decoder.mean_code.device.type == "cpu"


def number_to_draw(decoder: Any, most: int) -> int:
    """How many pictures to draw for a figure: `most`, but of a generator no more than 256, and 32
    on a CPU."""
    if not isinstance(decoder, Generator):
        return most
    return min(most, 32 if draws_slowly(decoder) else 256)


@torch.inference_mode()
def decode_images(decoder: Any, codes: Tensor, size: int | None = None) -> list[Image.Image]:
    """The images that a decoder makes of codes (B, num_layers, 512).

    Args:
        size: a generator stops at this resolution, which takes less time; None: 256, from all
            layers. An autoencoder has one size.
    """
    codes = codes.to(decoder.mean_code.device)
    if size and isinstance(decoder, Generator):
        return tensor_to_images(torch.cat([decoder(part, size) for part in codes.split(8)]))
    return tensor_to_images(decoder.decode(codes))


@torch.inference_mode()
def decode_pixels(decoder: Any, codes: Tensor, side: int) -> Tensor:
    """The images that a decoder makes of codes, as models over pixels read them.

    Returns:
        (B, 3, side, side) uint8 RGB on the CPU.
    """
    parts = []
    for part in codes.split(64):
        images = decoder.decode(part.to(decoder.mean_code.device)).float()
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        parts.append(images.clamp(-1, 1).add(1).mul(127.5).round().byte().cpu())
    return torch.cat(parts)


def decode_bands(
    decoder: Any, codes: Tensor, size: int | None = None
) -> dict[str, list[Image.Image]]:
    """What the layers of codes (B, num_layers, 512) add: coarse alone, + middle, + fine.

    The other layers are those of the mean code. For `size` see `decode_images`.
    """
    rows = {}
    for name, band in BANDS.items():
        part = decoder.mean_code.to(codes).repeat(len(codes), 1, 1)
        part[:, : band.stop] = codes[:, : band.stop]
        rows[name if name == "coarse" else f"+ {name}"] = decode_images(decoder, part, size)
    return rows


@torch.inference_mode()
def reconstruction_errors(encoder: nn.Module, decoder: Any, images: Tensor) -> pd.DataFrame:
    """What the way to a code and back changes, one row per image of (N, 3, S, S) in [-1, 1].

    Returns:
        mse: squared error, mean over pixels and colours.
        ssim: structural similarity, 1 for equal images.
    """
    rows: list[tuple[float, float]] = []
    dtype, device = encoder_dtype(encoder), decoder.mean_code.device
    for batch in images.split(32):
        drawn = decoder.decode(encoder(batch.to(device, dtype))).float().cpu()
        errors = (drawn - batch).square().mean((1, 2, 3))
        rows += zip(errors.tolist(), structural_similarity(drawn, batch).tolist(), strict=True)
    return pd.DataFrame(rows, columns=["mse", "ssim"])


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """(N,) mean structural similarity of images (N, C, S, S) in [-1, 1], Wang et al. 2004.

    Within a Gaussian window of 11 pixels, with their constants.
    """
    distance = torch.arange(11) - 5
    window = (distance.square() / (-2 * 1.5**2)).exp()
    window = (window.outer(window) / window.sum() ** 2).expand(a.shape[1], 1, 11, 11)

    def local_mean(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=x.shape[1])

    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a + b * b) - mean_a**2 - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    first, second = (2 * 0.01) ** 2, (2 * 0.03) ** 2  # shares of the range of values, which is 2
    luminance = (2 * mean_a * mean_b + first) / (mean_a**2 + mean_b**2 + first)
    return (luminance * (2 * covariance + second) / (variances + second)).mean((1, 2, 3))
