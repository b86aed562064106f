"""Whether codes lie where the StyleGAN that they belong to has learned to draw."""

import warnings

import torch
from torch import Tensor

from fervit_lib.encoders.style_encoder import StyleEncoder

# A rule of thumb: codes in w+ are known to lie farther out than StyleGAN's own, yet in the same order of magnitude.
FAR, NEAR = 5.0, 0.05


def distance_from_average(codes: Tensor, encoder: StyleEncoder) -> Tensor:
    """(N,) Euclidean distance of the layers of codes (N, layers, 512) from `latent_avg`, mean over the layers."""
    latent_avg = encoder.latent_avg.cpu()
    # In parts: codes on disk are float16, and all of them in float32 may not fit into memory.
    return torch.cat([(part.float() - latent_avg).norm(dim=-1).mean(-1) for part in codes.split(1024)])


def usual_distance(encoder: StyleEncoder) -> float:
    """Where the StyleGAN's own codes lie; if the checkpoint has no mapping network, the length of `latent_avg`."""
    return encoder.w_distance or encoder.latent_avg.norm(dim=-1).mean().item()


def warn_if_off_domain(distance: Tensor, encoder: StyleEncoder) -> bool:
    """Warn where the median of `distance` (N,) is far from the usual one.

    Returns:
        Whether it warned.
    """
    usual, median = usual_distance(encoder), distance.median().item()
    off = not NEAR * usual <= median <= FAR * usual
    if off:
        warnings.warn(
            f"codes look off-domain: they lie {median:.3g} from latent_avg (median), expected {NEAR * usual:.3g} to "
            f"{FAR * usual:.3g}; check that the faces are upright and fill the image, and that the checkpoint fits",
            stacklevel=2,
        )
    return off
