"""A Vision Transformer over codes with the blocks of a timm ViT."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fervit_lib.latents import LATENT_DIM, NUM_LAYERS
from fervit_lib.models.latent_vit import CodeViT, TokenEntry, Transformer
from fervit_lib.models.layers import with_adapters
from fervit_lib.models.pretrained import create_timm


class HybridLatentViT(CodeViT):
    """`w_plus` → linear → prefix tokens, positions, blocks and final norm of a timm ViT → logits.

    The patch embedding is dropped; its position embeddings (196 for a 224 image) become
    `num_tokens` by 1-D interpolation.

    Args:
        model_name: a timm VisionTransformer with a class token and position embeddings; the README
            lists the families.
        pretrained: where the transformer's weights come from, see `pretrained.create_timm`.
        num_blocks: blocks of the transformer; 0: the timm model's own.
        drop_rate: dropout after the position embedding, and after attention and MLP of each block.
        attn_drop_rate, layer_norm, layer_gates: see `LatentViT`.
        adapter_dim: bottleneck of the adapter after each block; 0: no adapters.
    """

    entry_parts = ("input_proj",)

    def __init__(
        self,
        num_classes: int = 7,
        *,
        model_name: str = "vit_tiny_patch16_224",
        pretrained: str,
        num_blocks: int = 0,
        latent_dim: int = LATENT_DIM,
        num_tokens: int = NUM_LAYERS,
        drop_rate: float = 0.1,
        attn_drop_rate: float = 0.0,
        layer_norm: bool = False,
        layer_gates: bool = False,
        adapter_dim: int = 0,
    ) -> None:
        vit = create_timm(
            model_name,
            pretrained,
            depth=num_blocks or None,
            proj_drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
        )
        if vit.cls_token is None or vit.pos_embed is None:
            raise ValueError(f"model_name: expected a ViT with a class token, got {model_name!r}")
        tokens = TokenEntry(
            latent_dim, num_tokens, vit.embed_dim, layer_norm=layer_norm, layer_gates=layer_gates
        )
        # A ViT made for average pooling has its final norm under another name.
        norm = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
        transformer = Transformer(vit.norm_pre, vit.blocks, norm, drop_rate)
        super().__init__(tokens, transformer, num_classes)
        self._initialise(self.tokens, self.head)
        _copy_prefix_and_positions(vit, self.tokens)
        self.transformer.blocks = with_adapters(vit.blocks, vit.embed_dim, adapter_dim)


@torch.no_grad()
def _copy_prefix_and_positions(vit: VisionTransformer, tokens: TokenEntry) -> None:
    """Prefix tokens and position embeddings of a timm ViT into the token entry.

    timm's order: class, then distillation (of a DeiT) or registers. With `no_embed_class` only
    patches have a position embedding. That of a further prefix token is added to the token itself.
    """
    more = [vit.reg_token, getattr(vit, "dist_token", None)]
    prefix = torch.cat([vit.cls_token, *(token for token in more if token is not None)], dim=1)
    num_prefix = prefix.shape[1]
    positions = vit.pos_embed
    if vit.no_embed_class:
        positions = F.pad(positions, (0, 0, num_prefix, 0))
    tokens.cls_token.copy_(vit.cls_token)
    tokens.pos_embed[:, :1] = positions[:, :1]
    patches = positions[:, num_prefix:]
    tokens.pos_embed[:, 1:] = interpolate_positions(patches, tokens.input_shape[0])
    if num_prefix > 1:
        tokens.extra_tokens = nn.Parameter((prefix + positions[:, :num_prefix])[:, 1:])


def interpolate_positions(pos_embed: Tensor, num_tokens: int) -> Tensor:
    """Position embeddings (1, P, D) → (1, num_tokens, D), linear along the sequence."""
    channels_first = pos_embed.transpose(1, 2)
    stretched = F.interpolate(channels_first, num_tokens, mode="linear", align_corners=False)
    return stretched.transpose(1, 2)
