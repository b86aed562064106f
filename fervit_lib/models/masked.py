"""Masked-token modelling: a ViT learns without labels by reconstructing hidden tokens.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", section 3: the encoder sees the
visible tokens only; a light decoder sees them and a mask token at each hidden position; the loss is
the squared error at those positions. Targets are standardised (there, per patch; here, per token
over the inputs), because the layers of a code differ tenfold in spread.
"""

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fervit_lib.models.image_vit import ImageModel
from fervit_lib.models.latent_vit import CodeViT
from fervit_lib.models.layers import sinusoidal_positions

DECODER_DIM = 128


class LinearPerToken(nn.Module):
    """A linear layer per token: (B, N, D) → (B, N, T).

    Layers of a code need not share a basis, as patches do: one layer for all would limit the rank
    of everything that is reconstructed to D.
    """

    def __init__(self, num_tokens: int, embed_dim: int, token_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_tokens, embed_dim, token_dim))
        self.bias = nn.Parameter(torch.zeros(num_tokens, token_dim))
        trunc_normal_(self.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.einsum("bnd,ndt->bnt", tokens, self.weight) + self.bias


class MaskedAutoencoder(nn.Module):
    """A model of this project as encoder, with the decoder that it needs during pretraining only.

    Args:
        encoder: a LatentViT, a HybridLatentViT, or an ImageModel with a ViT.
        mask_ratio: share of tokens hidden, in (0, 1).
    """

    def __init__(self, encoder: CodeViT | ImageModel, *, mask_ratio: float = 0.5) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio: expected a share in (0, 1), got {mask_ratio}")
        self.encoder = encoder
        self.mask_ratio = mask_ratio
        with torch.no_grad():
            example = torch.zeros(1, *encoder.input_shape)
            num_tokens, token_dim = self._to_tokens(example).shape[1:]
            embed_dim = encoder.embed(example)[1].shape[-1]
        self.register_buffer("target_mean", torch.zeros(num_tokens, token_dim))
        self.register_buffer("target_scale", torch.ones(num_tokens, 1))
        self.enc_to_dec = nn.Linear(embed_dim, DECODER_DIM)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, DECODER_DIM))
        trunc_normal_(self.mask_token, std=0.02)
        pos_embed = sinusoidal_positions(num_tokens, DECODER_DIM)
        self.register_buffer("pos_embed", pos_embed, persistent=False)
        self.decoder = Block(DECODER_DIM, num_heads=4, qkv_bias=True)
        self.norm = nn.LayerNorm(DECODER_DIM)
        if isinstance(encoder, CodeViT):
            self.to_targets = LinearPerToken(num_tokens, DECODER_DIM, token_dim)
        else:
            self.to_targets = nn.Linear(DECODER_DIM, token_dim)

    @torch.no_grad()
    def fit_scale(self, inputs: Tensor) -> None:
        """Standardise targets by the mean and the spread of `inputs`, training inputs."""
        tokens = self._to_tokens(inputs)
        self.target_mean.copy_(tokens.mean(0))
        spread = (tokens - self.target_mean).square().mean((0, 2)).sqrt()  # (N,)
        self.target_scale.copy_(spread.clamp(min=1e-6)[:, None])

    def targets(self, inputs: Tensor) -> Tensor:
        """What is reconstructed, (B, N, T): the tokens, each with mean 0 and variance 1.

        The variance is the mean over the token's dimensions, so an error of 1 is that of predicting
        the mean.
        """
        return (self._to_tokens(inputs) - self.target_mean) / self.target_scale

    def _to_tokens(self, inputs: Tensor) -> Tensor:
        """A code's layers, or normalised pixels of patches: (B, N, T)."""
        if isinstance(self.encoder, CodeViT):
            return inputs.float()
        images = self.encoder.prepare(inputs)
        height, width = self.encoder.body.patch_embed.patch_size
        # (B, C, H, W) → (B, C, rows, columns, height, width)
        patches = images.unfold(2, height, height).unfold(3, width, width)
        # → (B, rows · columns, C · height · width)
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)

    def forward(self, inputs: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruct hidden tokens.

        Args:
            inputs: of the encoder, (B, …).
            visible: (B, V) the tokens that the encoder sees; None: drawn, as many for each input,
                of which at least one is hidden, and not all.

        Returns:
            The reconstructed tokens (B, N, T), and a mask (B, N), True where they were hidden.
        """
        prefix, tokens = self.encoder.embed(inputs)
        batch_size, num_tokens = tokens.shape[:2]
        if visible is None:
            num_hidden = min(max(1, round(self.mask_ratio * num_tokens)), num_tokens - 1)
            order = torch.rand(batch_size, num_tokens, device=tokens.device).argsort(1)
            visible = order[:, num_hidden:].sort(1).values
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        mask.scatter_(1, visible, False)
        # Indices, because a GPU would have to count the elements of a mask before it goes on.
        chosen = torch.arange(batch_size, device=tokens.device)[:, None], visible
        encoded = self.enc_to_dec(self.encoder.encode(torch.cat([prefix, tokens[chosen]], dim=1)))
        decoder_tokens = self.mask_token.to(encoded.dtype).repeat(batch_size, num_tokens, 1)
        if prefix.shape[1]:
            # CLS, which the head will read, has to hold what is needed to paint the hidden tokens.
            decoder_tokens = decoder_tokens + encoded[:, :1]
        decoder_tokens[chosen] = encoded[:, prefix.shape[1] :]
        decoded = self.norm(self.decoder(decoder_tokens + self.pos_embed))
        return self.to_targets(decoded), mask

    def loss(self, reconstructed: Tensor, mask: Tensor, inputs: Tensor) -> Tensor:
        """Mean squared error over the hidden tokens."""
        errors = (reconstructed.float() - self.targets(inputs)).square().mean(-1)  # (B, N)
        return (errors * mask).sum() / mask.sum()
