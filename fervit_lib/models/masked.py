"""Masked-token modelling: a ViT learns from unlabelled codes or images by painting in what was hidden.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", section 3: the encoder sees the kept tokens only, a
light decoder sees them and a mask token in every hidden place, the loss is the squared error in the hidden places.
"""

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fervit_lib.models.image_vit import ImageModel
from fervit_lib.models.latent_vit import LatentViT
from fervit_lib.models.layers import sinusoidal_positions


class MaskedAutoencoder(nn.Module):
    """A model of this project as encoder, and the decoder that it needs while it learns.

    Args:
        encoder: a LatentViT, HybridLatentViT, or ImageModel with a ViT.
        mask_ratio: share of tokens hidden, in (0, 1).
        decoder_dim: width of the decoder.
        decoder_depth: its number of blocks.
    """

    def __init__(
        self,
        encoder: LatentViT | ImageModel,
        *,
        mask_ratio: float = 0.5,
        decoder_dim: int = 128,
        decoder_depth: int = 1,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio: expected a share in (0, 1), got {mask_ratio}")
        self.encoder, self.mask_ratio = encoder, mask_ratio
        with torch.no_grad():
            example = torch.zeros(1, *encoder.input_shape)
            num_tokens, token_dim = self.targets(example).shape[1:]
            embed_dim = encoder.embed(example)[1].shape[-1]
        self.enter = nn.Linear(embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        trunc_normal_(self.mask_token, std=0.02)
        self.register_buffer(
            "places", sinusoidal_positions(num_tokens, decoder_dim), persistent=False
        )
        self.blocks = nn.Sequential(
            *(Block(decoder_dim, 4, qkv_bias=True) for _ in range(decoder_depth))
        )
        self.norm = nn.LayerNorm(decoder_dim)
        self.paint = nn.Linear(decoder_dim, token_dim)

    def targets(self, inputs: Tensor) -> Tensor:
        """What is to be painted, a row a token (B, N, T): the layers of a code, or the normalised pixels of a patch."""
        if not isinstance(self.encoder, ImageModel):
            return inputs.float()
        images = self.encoder.prepare(inputs)
        (height, width), channels = self.encoder.body.patch_embed.patch_size, images.shape[1]
        patches = images.unfold(2, height, height).unfold(
            3, width, width
        )  # (B, C, h, w, height, width)
        return patches.permute(0, 2, 3, 1, 4, 5).reshape(len(images), -1, channels * height * width)

    def draw_mask(self, batch: int, num_tokens: int, device: torch.device) -> Tensor:
        """(B, N) bool, True where hidden; the same number in every row, at least one hidden and one kept."""
        hidden = min(max(1, round(self.mask_ratio * num_tokens)), num_tokens - 1)
        return torch.rand(batch, num_tokens, device=device).argsort(1).argsort(1) < hidden

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`inputs` as the encoder takes them → painted tokens (B, N, T), and the mask (B, N), True where hidden."""
        prefix, tokens = self.encoder.embed(inputs)
        batch, num_tokens, width = tokens.shape
        mask = self.draw_mask(batch, num_tokens, tokens.device) if mask is None else mask
        kept = tokens[~mask].view(batch, -1, width)
        seen = self.enter(self.encoder.encode(torch.cat([prefix, kept], dim=1)))[
            :, prefix.shape[1] :
        ]
        full = self.mask_token.to(seen.dtype).repeat(batch, num_tokens, 1)
        full[~mask] = seen.flatten(0, 1)
        return self.paint(self.norm(self.blocks(full + self.places))), mask

    def loss(self, painted: Tensor, mask: Tensor, inputs: Tensor) -> Tensor:
        """Mean squared error in the hidden places."""
        return (painted.float() - self.targets(inputs))[mask].square().mean()
