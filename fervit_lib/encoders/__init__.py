"""Encoders: face photographs to StyleGAN `w+` codes."""

from fervit_lib.encoders.aligned import write_aligned
from fervit_lib.encoders.autoencoder import (
    FIT_FACES,
    Autoencoder,
    fit_autoencoder,
)
from fervit_lib.encoders.decode import (
    decode_bands,
    decode_images,
    decode_pixels,
    draws_slowly,
    load_decoder,
    number_to_draw,
    reconstruction_errors,
)
from fervit_lib.encoders.encode import LargestBatch, encode_faces, encoder_dtype, prepare_encoder
from fervit_lib.encoders.images import (
    change_view,
    images_to_tensor,
    read_images,
    sample_faces,
    tensor_to_images,
)
from fervit_lib.encoders.load import ENCODERS, check_kind, load_encoder
from fervit_lib.encoders.published import load_generator
from fervit_lib.encoders.style_encoder import check_domain, distance_from_average
