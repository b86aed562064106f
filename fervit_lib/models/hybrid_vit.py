"""LatentViT around the transformer of any timm ViT."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fervit_lib.latents import LATENT_DIM, NUM_LAYERS
from fervit_lib.models.latent_vit import LatentViT
from fervit_lib.models.layers import with_adapters
from fervit_lib.models.pretrained import create_timm


def interpolate_positions(pos_embed: Tensor, num_tokens: int) -> Tensor:
    """Stretch patch positions (1, P, D) to (1, num_tokens, D), linearly along the sequence."""
    return F.interpolate(
        pos_embed.transpose(1, 2), num_tokens, mode="linear", align_corners=False
    ).transpose(1, 2)


class HybridLatentViT(LatentViT):
    """`w_plus` → linear → blocks, final norm, CLS, registers and positions of a timm ViT → logits.

    The patch embedding is dropped; 196 patch positions (of a 224 image) become `num_tokens` by 1-D interpolation. CLS
    keeps its own position, where the ViT gives it one.

    Args:
        model_name: a timm VisionTransformer with a class token.
        pretrained: where the transformer's weights come from, see `pretrained.create_timm`.
        drop_rate: dropout after the position embedding, and after attention and MLP of each block.
        adapter_dim: bottleneck of the adapter after each block; 0: no adapters.
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
        attn_drop_rate: float = 0.0,
        layer_norm: bool = False,
        layer_gates: bool = False,
        adapter_dim: int = 0,
    ) -> None:
        vit = create_timm(model_name, pretrained)
        if not isinstance(vit, VisionTransformer) or vit.cls_token is None or vit.pos_embed is None:
            raise ValueError(
                f"model_name: expected a timm VisionTransformer with a class token, got {model_name!r}"
            )
        super().__init__(
            num_classes,
            latent_dim=latent_dim,
            num_tokens=num_tokens,
            embed_dim=vit.embed_dim,
            depth=0,
            num_heads=1,
            drop_rate=drop_rate,
            layer_norm=layer_norm,
            layer_gates=layer_gates,
        )
        _set_dropout(vit.blocks, drop_rate, attn_drop_rate)
        self.blocks = with_adapters(vit.blocks, vit.embed_dim, adapter_dim)
        self.norm_pre = vit.norm_pre
        self.norm = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
        # Registers (Darcet et al. 2024) have no place: positions belong to CLS and patches.
        self.reg_token = vit.reg_token
        has_cls_position = vit.pos_embed.shape[1] == vit.patch_embed.num_patches + 1
        patches = vit.pos_embed[:, 1:] if has_cls_position else vit.pos_embed
        with torch.no_grad():
            self.cls_token.copy_(vit.cls_token)
            self.pos_embed[:, :1] = vit.pos_embed[:, :1] if has_cls_position else 0.0
            self.pos_embed[:, 1:] = interpolate_positions(patches, num_tokens)

    def embed(self, w_plus: Tensor) -> tuple[Tensor, Tensor]:
        prefix, tokens = super().embed(w_plus)
        if self.reg_token is not None:
            prefix = torch.cat([prefix, self.reg_token.expand(tokens.shape[0], -1, -1)], dim=1)
        return prefix, tokens

    @property
    def num_prefix_tokens(self) -> int:
        return 1 + (0 if self.reg_token is None else self.reg_token.shape[1])


def _set_dropout(blocks: nn.Sequential, drop_rate: float, attn_drop_rate: float) -> None:
    """What timm's keywords `proj_drop_rate` and `attn_drop_rate` do; not every ViT's constructor passes them on."""
    for name, module in blocks.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = attn_drop_rate if name.endswith("attn_drop") else drop_rate
