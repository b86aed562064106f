"""Vision Transformers whose tokens are the layers of a `w+` code: token entry, transformer, head.

The transformer blocks and their attention are timm's (Apache-2.0; pre-norm ViT, Dosovitskiy et al.
2021).
"""

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fervit_lib.latents import LATENT_DIM, NUM_LAYERS
from fervit_lib.models.attention import ATTENTIONS, relative
from fervit_lib.models.base import ExpressionModel
from fervit_lib.models.layers import (
    BandPositions,
    LayerGates,
    LayerwiseNorm,
    check_codes,
    sinusoidal_positions,
    with_adapters,
)
from fervit_lib.system.names import check_choice

POSITIONS = ("learned", "sinusoidal", "semantic", "relative")


class TokenEntry(nn.Module):
    """`w_plus` → prefix tokens (B, P, D) and layer tokens (B, num_tokens, D).

    The prefix is CLS, and the distillation token or registers of a pretrained transformer that has
    them. All carry their position embeddings.

    Args:
        position, layer_norm, layer_gates: see `LatentViT`.
    """

    def __init__(
        self,
        latent_dim: int,
        num_tokens: int,
        embed_dim: int,
        *,
        position: str = "learned",
        layer_norm: bool,
        layer_gates: bool,
    ) -> None:
        super().__init__()
        check_choice("position", position, POSITIONS)
        self.input_shape = (num_tokens, latent_dim)
        self.scale_layers = nn.Sequential()
        if layer_norm:
            self.scale_layers.append(LayerwiseNorm(num_tokens, latent_dim))
        if layer_gates:
            self.scale_layers.append(LayerGates(num_tokens))
        self.input_proj = nn.Linear(latent_dim, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if position == "sinusoidal":
            self.register_buffer("pos_embed", sinusoidal_positions(1 + num_tokens, embed_dim))
        elif position == "relative":
            self.register_buffer("pos_embed", torch.zeros(1, 1 + num_tokens, embed_dim))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_tokens, embed_dim))  # CLS first
            trunc_normal_(self.pos_embed, std=0.02)
        self.register_parameter("extra_tokens", None)  # (1, P - 1, D) of a pretrained transformer
        self.band_embed = BandPositions(num_tokens, embed_dim) if position == "semantic" else None

    @property
    def num_prefix_tokens(self) -> int:
        return 1 if self.extra_tokens is None else 1 + self.extra_tokens.shape[1]

    def forward(self, w_plus: Tensor) -> tuple[Tensor, Tensor]:
        check_codes(w_plus, self.input_shape)
        w_plus = w_plus.to(self.input_proj.weight.dtype)  # stores hold float16
        tokens = self.input_proj(self.scale_layers(w_plus)) + self.pos_embed[:, 1:]
        if self.band_embed is not None:
            tokens = tokens + self.band_embed()
        batch_size = tokens.shape[0]  # not len(): the ONNX exporter would write it as a constant
        prefix = (self.cls_token + self.pos_embed[:, :1]).expand(batch_size, -1, -1)
        if self.extra_tokens is not None:
            prefix = torch.cat([prefix, self.extra_tokens.expand(batch_size, -1, -1)], dim=1)
        return prefix, tokens


class Transformer(nn.Module):
    """Tokens (B, N, D) → normalised tokens (B, N, D): dropout, norm, blocks, norm."""

    def __init__(
        self, norm_pre: nn.Module, blocks: nn.Sequential, norm: nn.Module, drop_rate: float
    ) -> None:
        super().__init__()
        self.pos_drop = nn.Dropout(drop_rate)
        self.norm_pre = norm_pre
        self.blocks = blocks
        self.norm = norm

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.blocks(self.norm_pre(self.pos_drop(tokens))))


class CodeViT(ExpressionModel):
    """Token entry, transformer and a linear head on CLS: `w_plus` → logits (B, num_classes)."""

    reads = "codes"
    parts = {
        "tokens.scale_layers": "input_proj",
        "tokens.input_proj": "input_proj",
        "tokens.cls_token": "position",
        "tokens.extra_tokens": "position",
        "tokens.pos_embed": "position",
        "tokens.band_embed": "position",
        "transformer.norm_pre": "transformer",
        "transformer.blocks": "blocks",
        "transformer.norm": "transformer",
        "head": "head",
    }

    def __init__(self, tokens: TokenEntry, transformer: Transformer, num_classes: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.transformer = transformer
        self.head = nn.Linear(tokens.input_proj.out_features, num_classes)
        self.input_shape = tokens.input_shape

    @property
    def blocks(self) -> nn.Sequential:
        return self.transformer.blocks

    def embed(self, w_plus: Tensor) -> tuple[Tensor, Tensor]:
        """As `TokenEntry`."""
        return self.tokens(w_plus)

    def encode(self, tokens: Tensor) -> Tensor:
        """As `Transformer`."""
        return self.transformer(tokens)

    def forward_features(self, w_plus: Tensor) -> Tensor:
        """`w_plus` → normalised tokens (B, P + num_tokens, D), CLS first."""
        return self.encode(torch.cat(self.embed(w_plus), dim=1))

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Normalised tokens (B, N, D) → logits (B, num_classes), from CLS."""
        return self.head(tokens[:, 0])

    def _initialise(self, *modules: nn.Module) -> None:
        """timm's ViT initialisation, for `modules` and CLS."""
        for module in modules:
            module.apply(_init_linear)
        trunc_normal_(self.tokens.cls_token, std=0.02)


class LatentViT(CodeViT):
    """A transformer from random weights over the layers of a code.

    Args:
        embed_dim: width of the tokens; a multiple of `num_heads`.
        depth: number of transformer blocks.
        mlp_ratio: hidden width of a block's MLP divided by `embed_dim`.
        drop_rate: dropout after the position embedding, and after attention and MLP of each block.
        attention: `softmax`, or `rectified`, whose weights can be exactly 0.
        attn_drop_rate: dropout of attention weights.
        position: position embedding: `learned`; `sinusoidal`, fixed; `semantic`, the band's plus
            the layer's; `relative`, none, but a bias of attention, see `RelativeAttention`.
        layer_norm: normalise each layer of a code, with a scale and shift per layer.
        layer_gates: multiply each layer of a code by a learned weight.
        adapter_dim: bottleneck of the adapter after each block; 0: no adapters.
    """

    one_rate = True

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
        check_choice("attention", attention, ATTENTIONS)
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim: expected a multiple of num_heads={num_heads}, got {embed_dim}"
            )
        attn_layer = ATTENTIONS[attention]
        if position == "relative":
            attn_layer = relative(attn_layer, num_tokens)
        tokens = TokenEntry(
            latent_dim,
            num_tokens,
            embed_dim,
            position=position,
            layer_norm=layer_norm,
            layer_gates=layer_gates,
        )
        blocks = nn.Sequential(
            *(
                Block(
                    embed_dim,
                    num_heads,
                    mlp_ratio,
                    qkv_bias=True,
                    proj_drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    attn_layer=attn_layer,
                )
                for _ in range(depth)
            )
        )
        norm = nn.LayerNorm(embed_dim, eps=1e-6)
        transformer = Transformer(nn.Identity(), blocks, norm, drop_rate)
        super().__init__(tokens, transformer, num_classes)
        self._initialise(self)
        # Adapters come last: they have their own initialisation.
        self.transformer.blocks = with_adapters(blocks, embed_dim, adapter_dim)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
