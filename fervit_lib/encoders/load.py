"""One door to every encoder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from fervit_lib.encoders.autoencoder import load_autoencoder
from fervit_lib.encoders.published import load_style_encoder
from fervit_lib.encoders.style_encoder import STYLE_KINDS

# A checkpoint → the encoder in eval mode, with the side of its images as `img_size`. One that can paint its codes has
# `decode`, as `Autoencoder`; one that writes for a StyleGAN has `latent_avg` and `w_distance`, as `StyleEncoder`.
ENCODERS: dict[str, Callable[[Path], nn.Module]] = {
    "autoencoder": lambda checkpoint: load_autoencoder(checkpoint)[0],
    **{kind: partial(load_style_encoder, kind=kind) for kind in STYLE_KINDS},
}


def check_kind(kind: str) -> None:
    """Raise a ValueError with the known ones if `kind` is not among them."""
    if kind not in ENCODERS:
        raise ValueError(f"encoder: expected one of {', '.join(ENCODERS)}, got {kind!r}")


def load_encoder(checkpoint: Path | str, kind: str) -> nn.Module:
    """An encoder in eval mode: images (B, 3, 256, 256) RGB in [-1, 1] → `w_plus` (B, 18, 512) float32.

    Args:
        checkpoint: for psp and e4e the official file as it is; their codes have `latent_avg` added if its options say
            so, and 16 or 14 layers if they name a StyleGAN of 512 or 256 pixels.
        kind: one of `ENCODERS`.

    Raises:
        ValueError: unknown kind; a checkpoint of another kind, damaged, or with code in it.
        FileNotFoundError: no such checkpoint.
    """
    check_kind(kind)
    return ENCODERS[kind](Path(checkpoint))
