"""timm models by name, with published weights: from timm's hub, or from a file that the user placed."""

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fervit_lib.models import face_cnn  # noqa: F401  (from here on timm knows it)
from fervit_lib.system.runtime import PROJECT_ROOT, display_path, resolve

WEIGHTS = PROJECT_ROOT / "pretrained_models"
SUFFIXES = (".safetensors", ".pth", ".bin")
# Not loaded here: `mae` is learned on the spot, `none` starts random and trains, `random` starts random and stays so.
STARTS = ("none", "random", "mae")


def create_timm(
    model_name: str, pretrained: str, *, image_size: int = 0, **vit_options: Any
) -> nn.Module:
    """A timm model without its classifier.

    Args:
        pretrained: `imagenet` for the weights that timm publishes under this name, from `pretrained_models/` if a file
            of the model's name lies there, else from timm's hub; the path of such a file; or one of `STARTS`.
        image_size: pixels, heeded where a model is built for one size; 0: the model's own.
        vit_options: keywords of timm's `VisionTransformer`; None as a value stands for the model's own.

    Raises:
        ValueError: timm has no such model; an option is given and it is no plain ViT; or the file or hub cannot give
            weights for it, with the file to place.
    """
    if not timm.is_model(model_name):
        known = timm.list_models()
        near = difflib.get_close_matches(model_name, known, 3) or [
            "vit_tiny_patch16_224",
            "resnet18",
        ]
        raise ValueError(f"model_name: timm has no {model_name!r}; nearest are {', '.join(near)}")
    options = {name: value for name, value in vit_options.items() if value is not None}
    if options and not _is_plain_vit(model_name):
        raise ValueError(
            f"stem, patch_size, num_blocks: expected patch, 0 and 0 for {model_name}, which is no plain ViT"
        )
    published = timm.get_pretrained_cfg(model_name)
    if image_size and published and published.fixed_input_size:
        options["img_size"] = image_size
    if pretrained in STARTS:
        return timm.create_model(model_name, pretrained=False, num_classes=0, **options)
    file = _placed_file(model_name, pretrained)
    overlay = {"file": str(file)} if file else None
    if not published and not file:
        raise ValueError(
            f"pretrained: nobody published weights of {model_name}; say none, or give a file of yours"
        )
    if published:  # with another number of classes than was published, timm would load leniently and miss lost keys
        options["num_classes"] = published.num_classes
    try:
        model = timm.create_model(
            model_name, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except (
        Exception
    ) as error:  # from a hub that cannot be reached to keys that differ: timm has no type for it
        if file:
            raise ValueError(
                f"{display_path(file)}: not the weights of timm's {model_name} ({error}); download them again"
            ) from error
        raise ValueError(
            f"pretrained: timm's hub gave no {pretrained} weights for {model_name} ({error}); download "
            f"model.safetensors of {published.hf_hub_id if published else model_name} and place it as "
            f"{display_path(WEIGHTS)}/{model_name}.safetensors"
        ) from error
    model.reset_classifier(0)
    return model


def _is_plain_vit(model_name: str) -> bool:
    with torch.device("meta"):  # built without memory for its weights
        return isinstance(timm.create_model(model_name), VisionTransformer)


def _placed_file(model_name: str, pretrained: str) -> Path | None:
    """The file that `pretrained` means; None where only the hub can have it."""
    if pretrained == "imagenet":
        return next((p for s in SUFFIXES if (p := WEIGHTS / f"{model_name}{s}").is_file()), None)
    if Path(pretrained).suffix not in SUFFIXES:
        raise ValueError(
            f"pretrained: expected imagenet, {', '.join(STARTS)} or a file ({', '.join(SUFFIXES)}), got {pretrained!r}"
        )
    if not resolve(pretrained).is_file():
        raise ValueError(
            f"pretrained: no file {display_path(resolve(pretrained))}; place it there, or say imagenet"
        )
    return resolve(pretrained)
