"""A Vision Transformer whose tokens are the 18 layers of a `w+` code.

The transformer blocks, their attention among them, are timm's (Apache-2.0; pre-norm ViT, Dosovitskiy et al. 2021).
"""

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fervit_lib.latents import LATENT_DIM, NUM_LAYERS


class LatentViT(nn.Module):
    """`w_plus` (B, num_tokens, latent_dim) → logits (B, num_classes).

    Args:
        embed_dim: width of the tokens inside; a multiple of `num_heads`.
        depth: number of transformer blocks.
        mlp_ratio: hidden width of a block's MLP over `embed_dim`.
        drop_rate: dropout after the position embedding, and after attention and MLP of each block.
    """

    # The parts beside the head that have to be trained even when the transformer is kept as it came.
    entry_parts: tuple[str, ...] = ()

    def __init__(
        self,
        num_classes: int = 7,
        *,
        latent_dim: int = LATENT_DIM,
        num_tokens: int = NUM_LAYERS,
        embed_dim: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.1,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim: expected a multiple of num_heads={num_heads}, got {embed_dim}")
        self.latent_shape = (num_tokens, latent_dim)
        self.input_proj = nn.Linear(latent_dim, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_tokens, embed_dim))  # CLS first
        self.pos_drop = nn.Dropout(drop_rate)
        blocks = (Block(embed_dim, num_heads, mlp_ratio, qkv_bias=True, proj_drop=drop_rate) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)
        self.apply(_init_linear)
        for parameter in (self.cls_token, self.pos_embed):
            trunc_normal_(parameter, std=0.02)

    def forward_features(self, w_plus: Tensor) -> Tensor:
        """`w_plus` (B, num_tokens, latent_dim) → normalised tokens (B, 1 + num_tokens, embed_dim), CLS first."""
        if w_plus.shape[1:] != self.latent_shape:
            raise ValueError(
                f"w_plus: expected (B, {self.latent_shape[0]}, {self.latent_shape[1]}), got {tuple(w_plus.shape)}"
            )
        tokens = self.input_proj(w_plus.to(self.input_proj.weight.dtype))
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.norm(self.blocks(self.pos_drop(tokens + self.pos_embed)))

    def forward_head(self, tokens: Tensor) -> Tensor:
        """The class from CLS: (B, N, embed_dim) → logits (B, num_classes)."""
        return self.head(tokens[:, 0])

    def forward(self, w_plus: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(w_plus))


def _init_linear(module: nn.Module) -> None:
    """timm's ViT initialisation."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
