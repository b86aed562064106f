"""The baseline without attention: 1-D convolutions over the layers of a code."""

import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.latents import LATENT_DIM, NUM_LAYERS
from fervit_lib.models.base import ExpressionModel
from fervit_lib.models.layers import check_codes


class ResidualConv(nn.Module):
    """x + conv(GELU(norm(x))) over neighbouring layers; x is (B, channels, num_tokens)."""

    def __init__(self, channels: int, drop_rate: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.conv = nn.Conv1d(channels, channels, kernel_size=3, padding=1)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.conv(F.gelu(self.norm(x))))


class LatentCNN(ExpressionModel):
    """`w_plus` (B, num_tokens, latent_dim) → logits (B, num_classes).

    Args:
        embed_dim: channels.
        depth: number of residual convolutions, each of kernel size 3.
        drop_rate: dropout in each of them and before the head.
    """

    reads = "codes"
    parts = {
        "input_proj": "input_proj",
        "blocks": "blocks",
        "norm": "transformer",
        "head": "head",
    }

    def __init__(
        self,
        num_classes: int = 7,
        *,
        latent_dim: int = LATENT_DIM,
        num_tokens: int = NUM_LAYERS,
        embed_dim: int = 512,
        depth: int = 6,
        drop_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_shape = (num_tokens, latent_dim)
        self.input_proj = nn.Linear(latent_dim, embed_dim)
        self.blocks = nn.Sequential(*(ResidualConv(embed_dim, drop_rate) for _ in range(depth)))
        self.norm = nn.LayerNorm(num_tokens * embed_dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(num_tokens * embed_dim, num_classes)

    def forward_features(self, w_plus: Tensor) -> Tensor:
        """`w_plus` (B, num_tokens, latent_dim) → features (B, num_tokens · embed_dim)."""
        check_codes(w_plus, self.input_shape)
        x = self.input_proj(w_plus.to(self.input_proj.weight.dtype)).transpose(1, 2)
        return self.norm(self.blocks(x).transpose(1, 2).flatten(1))

    def forward_head(self, features: Tensor) -> Tensor:
        """Features (B, num_tokens · embed_dim) → logits (B, num_classes)."""
        return self.head(self.head_drop(features))
