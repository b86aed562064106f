"""Encoders: face photographs to StyleGAN `w+` codes."""

from fervit_lib.encoders.aligned import write_aligned
from fervit_lib.encoders.autoencoder import (
    Autoencoder,
    decode_images,
    fit_autoencoder,
    reconstruct,
    reconstruction_error,
    sample_images,
)
from fervit_lib.encoders.encode import encode_faces, encoder_dtype, prepare_encoder
from fervit_lib.encoders.images import change_view, images_to_tensor, tensor_to_images
from fervit_lib.encoders.load import ENCODERS, check_kind, load_encoder
from fervit_lib.encoders.published import load_generator
from fervit_lib.encoders.style_encoder import check_domain, distance_from_average
