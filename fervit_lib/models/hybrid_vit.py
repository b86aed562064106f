"""LatentViT around the transformer of any timm ViT."""

import timm
import torch
import torch.nn.functional as F
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
        try:
            vit = timm.create_model(model_name, num_classes=0, proj_drop_rate=drop_rate)
        except RuntimeError as error:  # timm's own for a name it does not know
            near = (
                ", ".join(timm.list_models(f"*{model_name.split('_')[0]}*patch16_224")[:5])
                or "timm.list_models('vit*')"
            )
            raise ValueError(f"model_name: timm has no {model_name!r}; known are {near}") from error
        if getattr(vit, "cls_token", None) is None or vit.num_prefix_tokens != 1:
            raise ValueError(f"model_name: expected a timm ViT with one class token, got {model_name!r}")
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
