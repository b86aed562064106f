"""Whether codes lie in the region that their StyleGAN was trained on."""

import warnings

from torch import Tensor

from fervit_lib.encoders.style_encoder import StyleEncoder

# A rule of thumb: w+ codes of real faces lie farther out than StyleGAN's own, in the same order of
# magnitude.
MIN_FACTOR = 0.05
MAX_FACTOR = 5.0


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
