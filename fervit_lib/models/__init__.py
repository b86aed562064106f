"""Networks that read an expression."""

from fervit_lib.models.create import APPROACHES, create_model, load_model, options_of, save_model
from fervit_lib.models.hybrid_vit import HybridLatentViT
from fervit_lib.models.latent_vit import LatentViT

__all__ = ["APPROACHES", "HybridLatentViT", "LatentViT", "create_model", "load_model", "options_of", "save_model"]
