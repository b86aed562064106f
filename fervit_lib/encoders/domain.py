"""Whether codes lie where the StyleGAN that they belong to has learned to draw."""

import warnings

from torch import Tensor

from fervit_lib.encoders.style_encoder import StyleEncoder

# A rule of thumb: codes in w+ are known to lie farther out than StyleGAN's own, yet in the same order of magnitude.
FAR, NEAR = 5.0, 0.05


def distance_from_average(codes: Tensor, encoder: StyleEncoder) -> Tensor:
    """(N,) Euclidean distance of the layers of codes (N, layers, 512) from `latent_avg`, mean over the layers."""
    return (codes.float() - encoder.latent_avg.cpu()).norm(dim=-1).mean(-1)


def check_domain(distance: Tensor, encoder: StyleEncoder) -> tuple[float, float, float]:
    """Warn where the median of `distance` (N,) is far from the usual one.

    Returns:
        The usual distance, that of the StyleGAN's own codes (if the checkpoint has no mapping network: the length of
        `latent_avg`); and the lowest and highest median that is no cause for a warning.
    """
    usual = encoder.w_distance or encoder.latent_avg.norm(dim=-1).mean().item()
    low, high, median = NEAR * usual, FAR * usual, distance.median().item()
    if not low <= median <= high:
        warnings.warn(
            f"codes look off-domain: they lie {median:.3g} from latent_avg (median), expected {low:.3g} to {high:.3g}; "
            f"check that the faces are upright and fill the image, and that the checkpoint fits",
            stacklevel=2,
        )
    return usual, low, high
