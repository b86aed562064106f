"""One door to every encoder."""

from pathlib import Path

from torch import nn

from fervit_lib.encoders.autoencoder import load_autoencoder

ENCODERS = ("autoencoder",)


def check_kind(kind: str) -> None:
    """Raise a ValueError with the known ones if `kind` is not among them."""
    if kind not in ENCODERS:
        raise ValueError(f"encoder: expected one of {', '.join(ENCODERS)}, got {kind!r}")


def load_encoder(checkpoint: Path | str, kind: str) -> nn.Module:
    """An encoder in eval mode: images (B, 3, 256, 256) RGB in [-1, 1] → `w_plus` (B, 18, 512) float32.

    Raises:
        ValueError: unknown kind, or a checkpoint of another kind.
        FileNotFoundError: no such checkpoint.
    """
    check_kind(kind)
    model, _ = load_autoencoder(Path(checkpoint))
    return model
