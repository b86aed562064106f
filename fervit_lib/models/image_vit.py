"""Models over pixels: any timm ViT, and any timm CNN beside it."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fervit_lib.models.conv_stem import ConvStem
from fervit_lib.models.layers import with_adapters
from fervit_lib.models.pretrained import create_timm

RESIZE_METHODS = ("squish", "crop", "pad")
STEMS = ("patch", "conv")


class ImageModel(nn.Module):
    """Images (B, 3 or 1, H, W) in [0, 1] or uint8 → logits (B, num_classes), by a timm model and a linear head.

    Images are resized to the model's size (bicubic) and normalised with the model's own mean and spread in here, so
    that small faces can rest small on the device.

    Args:
        model_name: any timm classification model: `vit_small_patch16_224`, `resnet18`, …
        pretrained: see `pretrained.create_timm`.
        image_size: side of the square that the model sees, pixels; 0: the model's own.
        patch_size: side of a ViT's patch, pixels; 0: the model's own. Published patch weights are resampled to it.
        stem: how a ViT's patches become tokens: `patch`, one linear map; or `conv`, see `ConvStem`, never pretrained.
        num_blocks: blocks of a ViT; 0: the model's own.
        resize_method: how a face that is no square becomes one: `squish`, `crop` to its middle, or `pad` with black.
        concat_pool: the head reads the mean and the maximum over all places side by side (fastai's concat pooling),
            in place of the model's own pooling.
        drop_rate: dropout before the head.
        adapter_dim: bottleneck of the adapter after each block of a ViT; 0: no adapters.
    """

    entry_parts: tuple[str, ...] = ()

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
    ) -> None:
        super().__init__()
        if resize_method not in RESIZE_METHODS:
            raise ValueError(
                f"resize_method: expected one of {', '.join(RESIZE_METHODS)}, got {resize_method!r}"
            )
        if stem not in STEMS:
            raise ValueError(f"stem: expected one of {', '.join(STEMS)}, got {stem!r}")
        if stem == "conv" and pretrained not in ("none", "random"):
            raise ValueError(
                f"stem: conv has no pretrained weights, expected pretrained='none', got {pretrained!r}"
            )
        self.resize_method, self.concat_pool = resize_method, concat_pool
        stem_layer = ConvStem if stem == "conv" else None
        vit_options = {
            "patch_size": patch_size or None,
            "depth": num_blocks or None,
            "embed_layer": stem_layer,
        }
        self.body = create_timm(model_name, pretrained, image_size=image_size, **vit_options)
        config = self.body.pretrained_cfg
        self.image_size, self.any_size = (
            image_size or config["input_size"][-1],
            not config.get("fixed_input_size"),
        )
        self.seen_size = self.image_size  # a fit may begin with smaller images
        if adapter_dim:
            if not self.is_vit:
                raise ValueError(
                    f"adapter_dim: expected 0 for {model_name}, which has no transformer blocks"
                )
            self.body.blocks = with_adapters(self.body.blocks, self.body.embed_dim, adapter_dim)
        # Convolutions are faster channels last, half as fast again on a CPU; one linear map of patches is not.
        self.layout = (
            torch.contiguous_format if self.is_vit and stem == "patch" else torch.channels_last
        )
        self.body.to(memory_format=self.layout)
        for name in ("mean", "std"):
            self.register_buffer(
                name, torch.tensor(config[name]).view(1, 3, 1, 1), persistent=False
            )
        self.head_drop = nn.Dropout(drop_rate)
        # Some models widen their features once more before the classifier, others do not.
        width = (
            2 * self.body.num_features
            if concat_pool
            else getattr(self.body, "head_hidden_size", None)
        )
        self.head = nn.Linear(width or self.body.num_features, num_classes)
        self.input_shape = (3, self.image_size, self.image_size)

    @property
    def is_vit(self) -> bool:
        """Whether images become tokens of one width, between plain blocks of attention."""
        return isinstance(self.body, VisionTransformer)

    def prepare(self, images: Tensor) -> Tensor:
        """Images as the model takes them: (B, 3, seen_size, seen_size), normalised."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images: expected (B, 3, H, W) or (B, 1, H, W), got {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            images = images.float() / 255
        size = (self.seen_size, self.seen_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bicubic", align_corners=False).clamp(0, 1)
        return ((images - self.mean) / self.std).contiguous(memory_format=self.layout)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images → CLS (and registers) (B, P, D) and one placed token a patch (B, N, D), of a ViT."""
        if not self.is_vit:
            raise ValueError(
                f"expected a ViT, whose images become tokens, got a {type(self.body).__name__}"
            )
        tokens = self.body.patch_drop(
            self.body._pos_embed(self.body.patch_embed(self.prepare(images)))
        )
        return tokens[:, : self.body.num_prefix_tokens], tokens[:, self.body.num_prefix_tokens :]

    def encode(self, tokens: Tensor) -> Tensor:
        """Placed tokens (B, P + N, D) → normalised tokens, of a ViT."""
        return self.body.norm(self.body.blocks(self.body.norm_pre(tokens)))

    def forward_features(self, images: Tensor) -> Tensor:
        """Tokens (B, P + N, D) of a ViT, maps (B, C, h, w) of a CNN."""
        return self.body.forward_features(self.prepare(images))

    def forward_head(self, features: Tensor) -> Tensor:
        """What `forward_features` gives → logits (B, num_classes)."""
        pooled = (
            self._pool(features)
            if self.concat_pool
            else self.body.forward_head(features, pre_logits=True)
        )
        return self.head(self.head_drop(pooled))

    def _pool(self, features: Tensor) -> Tensor:
        """Mean and maximum over all places of what `forward_features` gives: (B, 2·D)."""
        if features.ndim == 3:
            places = features[:, getattr(self.body, "num_prefix_tokens", 0) :]
        else:
            last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
            places = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
        return torch.cat([places.mean(1), places.amax(1)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))
