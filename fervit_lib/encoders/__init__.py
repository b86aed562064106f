"""Face photographs to StyleGAN `w+` codes."""

from fervit_lib.encoders.autoencoder import Autoencoder
from fervit_lib.encoders.encode import change_view, decode_images, encode_faces, images_to_tensor, tensor_to_images
from fervit_lib.encoders.load import ENCODERS, check_kind, load_encoder

__all__ = [
    "ENCODERS",
    "Autoencoder",
    "change_view",
    "check_kind",
    "decode_images",
    "encode_faces",
    "images_to_tensor",
    "load_encoder",
    "tensor_to_images",
]
