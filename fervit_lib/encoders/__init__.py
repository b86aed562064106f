"""Face photographs to StyleGAN `w+` codes."""

from fervit_lib.encoders.autoencoder import Autoencoder
from fervit_lib.encoders.domain import distance_from_average, warn_if_off_domain
from fervit_lib.encoders.encode import (
    change_view,
    encode_faces,
    encoder_dtype,
    images_to_tensor,
    prepare_encoder,
    tensor_to_images,
)
from fervit_lib.encoders.load import ENCODERS, check_kind, load_encoder

__all__ = [
    "ENCODERS",
    "Autoencoder",
    "change_view",
    "check_kind",
    "distance_from_average",
    "encode_faces",
    "encoder_dtype",
    "images_to_tensor",
    "load_encoder",
    "prepare_encoder",
    "tensor_to_images",
    "warn_if_off_domain",
]
