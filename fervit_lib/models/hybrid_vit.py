"""LatentViT around the transformer of any timm ViT."""

import difflib

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fervit_lib.latents import LATENT_DIM, NUM_LAYERS
from fervit_lib.models.latent_vit import LatentViT

PRETRAINED = ("none",)


def interpolate_positions(pos_embed: Tensor, num_tokens: int) -> Tensor:
    """Stretch patch positions (1, P, D) to (1, num_tokens, D), linearly along the sequence."""
    return F.interpolate(pos_embed.transpose(1, 2), num_tokens, mode="linear", align_corners=False).transpose(1, 2)


class HybridLatentViT(LatentViT):
    """`w_plus` → linear → blocks, final norm, CLS and positions of a timm ViT → logits.

    The patch embedding is dropped; 196 patch positions (of a 224 image) become `num_tokens` by 1-D interpolation.

    Args:
        model_name: a timm VisionTransformer with a class token.
        pretrained: where the transformer's weights come from; `none` is random and has to be said by name.
        drop_rate: dropout after the position embedding, and after attention and MLP of each block.
    """

    entry_parts = ("input_proj",)

    def __init__(
        self,
        num_classes: int = 7,
        *,
        model_name: str = "vit_tiny_patch16_224",
        pretrained: str,
        latent_dim: int = LATENT_DIM,
        num_tokens: int = NUM_LAYERS,
        drop_rate: float = 0.1,
    ) -> None:
        if pretrained not in PRETRAINED:
            raise ValueError(f"pretrained: expected one of {', '.join(PRETRAINED)}, got {pretrained!r}")
        vit = _create_vit(model_name, drop_rate)
        super().__init__(
            num_classes,
            latent_dim=latent_dim,
            num_tokens=num_tokens,
            embed_dim=vit.embed_dim,
            depth=0,
            num_heads=1,
            drop_rate=drop_rate,
        )
        self.blocks, self.norm = vit.blocks, vit.norm
        with torch.no_grad():
            self.cls_token.copy_(vit.cls_token)
            self.pos_embed[:, :1] = vit.pos_embed[:, :1]
            self.pos_embed[:, 1:] = interpolate_positions(vit.pos_embed[:, 1:], num_tokens)


def _create_vit(model_name: str, drop_rate: float) -> VisionTransformer:
    if not timm.is_model(model_name):
        near = difflib.get_close_matches(model_name, timm.list_models("vit*"), 3) or ["vit_tiny_patch16_224"]
        raise ValueError(f"model_name: timm has no {model_name!r}; nearest are {', '.join(near)}")
    if timm.model_entrypoint(model_name).__module__ == VisionTransformer.__module__:
        vit = timm.create_model(model_name, num_classes=0, proj_drop_rate=drop_rate)
        if vit.cls_token is not None and vit.num_prefix_tokens == 1:
            return vit
    raise ValueError(f"model_name: expected a timm VisionTransformer with one class token, got {model_name!r}")
