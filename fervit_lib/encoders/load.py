"""Load any encoder by its kind."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from fervit_lib.encoders.autoencoder import load_autoencoder
from fervit_lib.encoders.published import load_style_encoder
from fervit_lib.encoders.style_encoder import STYLE_KINDS
from fervit_lib.system.names import check_choice

# A checkpoint → the encoder in eval mode, with the side of its images as `img_size`. One that can
# reconstruct images has `decode`, as `Autoencoder`; one for a StyleGAN has `latent_avg` and
# `w_distance`, as `StyleEncoder`.
ENCODERS: dict[str, Callable[[Path], nn.Module]] = {
    "autoencoder": load_autoencoder,
    **{kind: partial(load_style_encoder, kind=kind) for kind in STYLE_KINDS},
}


def check_kind(kind: str) -> None:
    """Raise a ValueError unless `kind` is one of `ENCODERS`."""
    check_choice("encoder", kind, ENCODERS)


def load_encoder(checkpoint: Path | str, kind: str) -> nn.Module:
    """Load an encoder in eval mode.

    It maps images (B, 3, S, S) RGB in [-1, 1] to `w_plus` (B, 18, 512) float32.

    Args:
        checkpoint: for psp and e4e the official file, unchanged. `latent_avg` is added to its codes
            if its options say so, and there are 16 or 14 layers if they name a StyleGAN of 512 or
            256 pixels.
        kind: one of `ENCODERS`.

    Raises:
        ValueError: unknown kind; a checkpoint of another kind, damaged, or with code in it.
        FileNotFoundError: no such checkpoint.
    """
    check_kind(kind)
    return ENCODERS[kind](Path(checkpoint))
