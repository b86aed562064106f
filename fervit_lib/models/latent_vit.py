"""A Vision Transformer whose tokens are the 18 layers of a `w+` code.

The transformer blocks, their attention among them, are timm's (Apache-2.0; pre-norm ViT, Dosovitskiy et al. 2021).
"""

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fervit_lib.latents import LATENT_DIM, NUM_LAYERS
from fervit_lib.models.attention import attention_layer
from fervit_lib.models.layers import (
    BandPositions,
    LayerGates,
    LayerwiseNorm,
    sinusoidal_positions,
    with_adapters,
)

POSITIONS = ("learned", "sinusoidal", "semantic")


class LatentViT(nn.Module):
    """`w_plus` (B, num_tokens, latent_dim) → logits (B, num_classes).

    Args:
        embed_dim: width of the tokens inside; a multiple of `num_heads`.
        depth: number of transformer blocks.
        mlp_ratio: hidden width of a block's MLP over `embed_dim`.
        drop_rate: dropout after the position embedding, and after attention and MLP of each block.
        attention: `softmax`, or `rectified`, whose weights can be exactly 0.
        attn_drop_rate: dropout of attention weights.
        position: how a token's place enters: `learned`; `sinusoidal`, fixed; `semantic`, the band plus the layer.
        layer_norm: normalise each layer of a code on entry, with a scale and shift of its own.
        layer_gates: weigh each layer of a code by one learned number.
        adapter_dim: bottleneck of the adapter after each block; 0: no adapters.
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
        attention: str = "softmax",
        attn_drop_rate: float = 0.0,
        position: str = "learned",
        layer_norm: bool = False,
        layer_gates: bool = False,
        adapter_dim: int = 0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim: expected a multiple of num_heads={num_heads}, got {embed_dim}"
            )
        if position not in POSITIONS:
            raise ValueError(f"position: expected one of {', '.join(POSITIONS)}, got {position!r}")
        self.input_shape = (num_tokens, latent_dim)
        entry = [LayerwiseNorm(num_tokens, latent_dim)] if layer_norm else []
        self.entry = nn.Sequential(*entry, *([LayerGates(num_tokens)] if layer_gates else []))
        self.input_proj = nn.Linear(latent_dim, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if position == "sinusoidal":
            self.register_buffer("pos_embed", sinusoidal_positions(1 + num_tokens, embed_dim))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_tokens, embed_dim))  # CLS first
            trunc_normal_(self.pos_embed, std=0.02)
        self.band_embed = BandPositions(num_tokens, embed_dim) if position == "semantic" else None
        self.pos_drop = nn.Dropout(drop_rate)
        self.norm_pre = nn.Identity()
        options = {
            "proj_drop": drop_rate,
            "attn_drop": attn_drop_rate,
            "attn_layer": attention_layer(attention),
        }
        blocks = (
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias=True, **options) for _ in range(depth)
        )
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)
        self.apply(_init_linear)
        trunc_normal_(self.cls_token, std=0.02)
        self.blocks = with_adapters(self.blocks, embed_dim, adapter_dim)

    def embed(self, w_plus: Tensor) -> tuple[Tensor, Tensor]:
        """`w_plus` → CLS (and registers) (B, P, embed_dim) and one token a layer (B, num_tokens, embed_dim), placed."""
        if w_plus.shape[1:] != self.input_shape:
            raise ValueError(
                f"w_plus: expected (B, {self.input_shape[0]}, {self.input_shape[1]}), got {tuple(w_plus.shape)}"
            )
        tokens = (
            self.input_proj(self.entry(w_plus.to(self.input_proj.weight.dtype)))
            + self.pos_embed[:, 1:]
        )
        if self.band_embed is not None:
            tokens = tokens + self.band_embed()
        prefix = self.cls_token + self.pos_embed[:, :1]
        return prefix.expand(tokens.shape[0], -1, -1), tokens

    def encode(self, tokens: Tensor) -> Tensor:
        """Placed tokens (B, N, embed_dim), CLS first → normalised tokens (B, N, embed_dim)."""
        return self.norm(self.blocks(self.norm_pre(self.pos_drop(tokens))))

    def forward_features(self, w_plus: Tensor) -> Tensor:
        """`w_plus` (B, num_tokens, latent_dim) → normalised tokens (B, P + num_tokens, embed_dim), CLS first."""
        return self.encode(torch.cat(self.embed(w_plus), dim=1))

    def forward_head(self, tokens: Tensor) -> Tensor:
        """The class from CLS: (B, N, embed_dim) → logits (B, num_classes)."""
        return self.head(tokens[:, 0])

    def forward(self, w_plus: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(w_plus))

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the layers: CLS, and the registers of a transformer that has them."""
        return 1


def _init_linear(module: nn.Module) -> None:
    """timm's ViT initialisation."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
