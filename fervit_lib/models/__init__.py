"""Models that classify the expression of a face, and the segmenters of persons (`segmentation`)."""

from fervit_lib.models.attention import set_fused_attention
from fervit_lib.models.base import PARTS, ExpressionModel
from fervit_lib.models.create import (
    create_model,
    describe_model,
    load_class,
    load_model,
    load_untrained,
    options_of,
    save_model,
    trained_on,
)
from fervit_lib.models.export import write_onnx
from fervit_lib.models.hybrid_vit import HybridLatentViT
from fervit_lib.models.image_vit import ImageModel
from fervit_lib.models.latent_cnn import LatentCNN
from fervit_lib.models.latent_vit import LatentViT
from fervit_lib.models.masked import MaskedAutoencoder
from fervit_lib.models.own_code import describe_object
