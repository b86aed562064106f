"""Models over pixels: any timm ViT or CNN."""

import torch
import torch.nn.functional as F
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fervit_lib.models.base import ExpressionModel
from fervit_lib.models.convolutions import ConvStem
from fervit_lib.models.layers import with_adapters
from fervit_lib.models.pretrained import create_timm
from fervit_lib.system.names import check_choice

RESIZE_METHODS = ("squish", "crop", "pad")
STEMS = ("patch", "conv")


class ImageModel(ExpressionModel):
    """A timm model and a linear head: images → logits (B, num_classes).

    Images are (B, 3 or 1, H, W), uint8 or float in [0, 1].

    The model resizes (bicubic) and normalises its inputs itself, so a data set of small faces stays
    small on the device.

    Args:
        model_name: any timm classification model: `vit_small_patch16_224`, `resnet18`, …
        pretrained: see `pretrained.create_timm`.
        image_size: height and width that the model sees, pixels; 0: the timm model's own.
        patch_size: side of a ViT's patch, pixels; 0: the timm model's own. Pretrained patch weights
            are resampled.
        stem: patch embedding of a ViT: `patch`, one linear map; or `conv`, see `ConvStem`, never
            pretrained.
        num_blocks: blocks of a ViT; 0: the timm model's own.
        resize_method: how a face that is not square becomes square: `squish`, `crop` to its centre,
            or `pad` with black.
        concat_pool: the head reads the mean and the maximum over all positions, concatenated
            (fastai's concat pooling), instead of the timm model's own pooling.
        drop_rate: dropout before the head.
        adapter_dim: bottleneck of the adapter after each block of a ViT; 0: no adapters.
        token_head: a second head, on the distillation token of a DeiT (Touvron et al. 2021). In
            training mode the model returns the logits of both heads, in eval mode their mean.

    Attributes:
        seen_size: height and width that images are resized to, pixels; training may start below
            `image_size`.
        any_size: whether the timm model accepts images of any size.
    """

    reads = "pixels"
    parts = {
        "body.cls_token": "position",
        "body.dist_token": "position",
        "body.reg_token": "position",
        "body.pos_embed": "position",
        "body.blocks": "blocks",
        "body": "transformer",  # patch embedding and norms of a ViT, all of a CNN
        "head": "head",
        "token_head": "head",
    }

    def __init__(
        self,
        num_classes: int = 7,
        *,
        model_name: str = "vit_tiny_patch16_224",
        pretrained: str,
        image_size: int = 0,
        patch_size: int = 0,
        stem: str = "patch",
        num_blocks: int = 0,
        resize_method: str = "squish",
        concat_pool: bool = False,
        drop_rate: float = 0.1,
        adapter_dim: int = 0,
        token_head: bool = False,
    ) -> None:
        super().__init__()
        check_choice("resize_method", resize_method, RESIZE_METHODS)
        check_choice("stem", stem, STEMS)
        if stem == "conv" and pretrained not in ("none", "random"):
            raise ValueError(
                f"stem: conv has no pretrained weights, expected pretrained='none', got "
                f"{pretrained!r}"
            )
        self.body = create_timm(
            model_name,
            pretrained,
            image_size=image_size,
            patch_size=patch_size or None,
            depth=num_blocks or None,
            embed_layer=ConvStem if stem == "conv" else None,
        )
        self.resize_method = resize_method
        self.concat_pool = concat_pool
        config = self.body.pretrained_cfg
        self.any_size = not config.get("fixed_input_size")
        self.image_size = image_size or config["input_size"][-1]
        self.seen_size = self.image_size
        self.input_shape = (3, self.image_size, self.image_size)
        if adapter_dim:
            if not self.is_vit:
                raise ValueError(
                    f"adapter_dim: expected 0 for {model_name}, which has no transformer blocks"
                )
            self.body.blocks = with_adapters(self.body.blocks, self.body.embed_dim, adapter_dim)
        # On a CPU convolutions take two thirds of the time in channels-last; a linear patch
        # embedding gains nothing.
        is_linear = self.is_vit and stem == "patch"
        self.layout = torch.contiguous_format if is_linear else torch.channels_last
        self.body.to(memory_format=self.layout)
        for name in ("mean", "std"):
            value = torch.tensor(config[name]).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.head_drop = nn.Dropout(drop_rate)
        # Some timm models (MobileNetV3) widen their features again in `forward_head`.
        width = getattr(self.body, "head_hidden_size", None) or self.body.num_features
        if concat_pool:
            width = 2 * self.body.num_features
        self.head = nn.Linear(width, num_classes)
        if token_head and (concat_pool or not isinstance(self.body, VisionTransformerDistilled)):
            raise ValueError(
                f"token_head: expected a ViT with a distillation token, such as "
                f"deit_tiny_distilled_patch16_224, and concat_pool=False, got {model_name!r}"
            )
        self.token_head = nn.Linear(width, num_classes) if token_head else None

    @property
    def is_vit(self) -> bool:
        """Whether images become tokens of one width that plain attention blocks process."""
        return isinstance(self.body, VisionTransformer)

    @property
    def blocks(self) -> nn.Module | tuple:
        return getattr(self.body, "blocks", ())

    def part_of(self, name: str, lower_blocks: int = 0) -> str:
        # The patch embedding feeds the lower blocks: it freezes with them.
        if lower_blocks and name.startswith("body.patch_embed."):
            return "lower_blocks"
        return super().part_of(name, lower_blocks)

    def prepare(self, images: Tensor) -> Tensor:
        """Images → (B, 3, seen_size, seen_size) float, normalised.

        Raises:
            ValueError: another shape than (B, 3, H, W) or (B, 1, H, W).
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images: expected (B, 3, H, W) or (B, 1, H, W), got {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            images = images.float() / 255
        size = (self.seen_size, self.seen_size)
        if images.shape[-2:] != size:
            # Bicubic overshoots: clamp to the range of pixels.
            images = F.interpolate(images, size, mode="bicubic", align_corners=False).clamp(0, 1)
        return ((images - self.mean) / self.std).contiguous(memory_format=self.layout)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images → prefix tokens (CLS, registers) (B, P, D) and patch tokens (B, N, D).

        Both with their position embeddings.

        Raises:
            ValueError: the timm model is not a ViT.
        """
        if not self.is_vit:
            raise ValueError(
                f"model_name: expected a ViT, whose images become tokens, got a "
                f"{type(self.body).__name__}"
            )
        tokens = self.body._pos_embed(self.body.patch_embed(self.prepare(images)))
        num_prefix = self.body.num_prefix_tokens
        return tokens[:, :num_prefix], tokens[:, num_prefix:]

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, P + N, D) with position embeddings → normalised tokens, of a ViT."""
        return self.body.norm(self.body.blocks(self.body.norm_pre(tokens)))

    def forward_features(self, images: Tensor) -> Tensor:
        """Tokens (B, P + N, D) of a ViT, or maps (B, C, h, w) of a CNN."""
        return self.body.forward_features(self.prepare(images))

    def forward_head(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Output of `forward_features` → logits (B, num_classes); two in training, `token_head`."""
        if self.token_head is not None:
            # Tokens 0 and 1 of (B, P + N, D) are CLS and the distillation token.
            cls = self.head(self.head_drop(features[:, 0]))
            token = self.token_head(self.head_drop(features[:, 1]))
            return (cls, token) if self.training else (cls + token) / 2
        if self.concat_pool:
            pooled = self._pool(features)
        else:
            pooled = self.body.forward_head(features, pre_logits=True)
        return self.head(self.head_drop(pooled))

    def _pool(self, features: Tensor) -> Tensor:
        """Mean and maximum over all positions, (B, 2 · D)."""
        # Tokens are (B, P + N, D); maps of a CNN (B, D, h, w), and those of a Swin (B, h, w, D).
        if features.ndim == 4 and getattr(self.body, "output_fmt", "NCHW") == "NCHW":
            features = features.movedim(1, -1)
        # (B, N, D): CLS and registers of a ViT are no positions.
        positions = features.flatten(1, -2)[:, getattr(self.body, "num_prefix_tokens", 0) :]
        return torch.cat([positions.mean(1), positions.amax(1)], dim=1)
