"""timm models by name, with pretrained weights from timm's hub or from a local file."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fervit_lib.models import convolutions  # noqa: F401  (registers models in timm)
from fervit_lib.system.errors import check_unpacked_size, explain_read_error
from fervit_lib.system.runtime import PROJECT_ROOT, display_path, resolve

WEIGHTS = PROJECT_ROOT / "pretrained_models"
SUFFIXES = (".safetensors", ".pth", ".bin", ".pt", ".pth.tar", ".ckpt")
# No weights are loaded for these: `mae` pretrains in 02_train, `none` trains from random weights,
# and `random` allows a strategy to freeze them, for a baseline.
RANDOM_STARTS = ("none", "random", "mae")


def create_timm(
    model_name: str, pretrained: str, *, image_size: int = 0, **vit_options: Any
) -> nn.Module:
    """Create a timm model without its classifier.

    Args:
        pretrained: `imagenet` for the weights that timm publishes under this name, from
            `pretrained_models/<model_name>.safetensors` (or another of `SUFFIXES`) if that exists,
            else from timm's hub; the path of such a file, whatever its classifier and whatever
            timm's or torch's tools wrap around the weights; or one of `RANDOM_STARTS`.
        image_size: pixels, used where a model is built for one size; 0: the model's own.
        vit_options: keywords of timm's `VisionTransformer`; None stands for the model's own.

    Raises:
        ValueError: timm has no such model; an option is given and the model is not a plain ViT; or
            its weights cannot be loaded.
    """
    if not timm.is_model(model_name):
        similar = difflib.get_close_matches(model_name, timm.list_models(), 3)
        raise ValueError(
            f"model_name: timm has no {model_name!r}; similar names: {', '.join(similar) or 'none'}"
        )
    options = {name: value for name, value in vit_options.items() if value is not None}
    if options and not isinstance(_create_blank(model_name), VisionTransformer):
        raise ValueError(
            f"model_name: expected a timm VisionTransformer, which approach hybrid, stem='conv', "
            f"patch_size and num_blocks need, got {model_name!r}"
        )
    published = timm.get_pretrained_cfg(model_name)
    if image_size and published and published.fixed_input_size:
        options["img_size"] = image_size
    if pretrained in RANDOM_STARTS:
        return timm.create_model(model_name, pretrained=False, num_classes=0, **options)
    file = find_weights("pretrained", model_name, pretrained, RANDOM_STARTS)
    if not published and not file:
        raise ValueError(
            f"pretrained: timm has no published weights for {model_name}; choose none, or give "
            f"a file"
        )
    problem = "timm's hub gave no weights"
    remedy = f"download model.safetensors of {model_name} from timm's hub and save it as "
    remedy += f"{display_path(WEIGHTS)}/{model_name}.safetensors"
    if file:
        problem = f"not the weights of timm's {model_name}"
        remedy = "give weights of this model; only their classifier may be another, or missing"
    # timm passes on anything from network errors to differing keys, with no type in common.
    with explain_read_error(file or "pretrained", problem, remedy):
        # With another number of classes than the weights have, timm loads leniently and would not
        # notice missing keys.
        overlay = {}
        if file:
            weights = read_weights(file, _create_blank(model_name).state_dict())
            names = published.classifier if published else "head"
            head = weights.get(f"{names if isinstance(names, str) else names[0]}.weight", ())
            options["num_classes"] = len(head)
            overlay = {"state_dict": weights, "num_classes": len(head)}
        else:
            options["num_classes"] = published.num_classes
        model = timm.create_model(
            model_name, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    model.reset_classifier(0)
    return model


def read_weights(file: Path, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, by the names of timm.

    They may be wrapped, as state_dict beside an optimiser's state, and their names may have a
    prefix, as `module.` of DistributedDataParallel. An averaged model is preferred.

    Args:
        own: the model's weights, by the names that are to be found.
    """
    check_unpacked_size(file)
    weights = timm.models.load_state_dict(str(file))
    wrapped = [value for value in weights.values() if _are_tensors(value)]
    if len(wrapped) == 1:
        [weights] = wrapped
    if not _are_tensors(weights):
        raise ValueError(f"expected tensors by name, got {', '.join(list(weights)[:8]) or 'none'}")
    # A DenseNet without its classifier has one prefix of its own.
    while (
        not weights.keys() & own.keys()
        and all("." in name for name in weights)
        and len({name.split(".")[0] for name in weights}) == 1
    ):
        weights = {name.split(".", 1)[1]: value for name, value in weights.items()}
    return weights


def _are_tensors(content: Any) -> bool:
    """Whether it is a mapping of names to tensors, with at least one."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(value, torch.Tensor) for value in content.values())
    )


def _create_blank(model_name: str) -> nn.Module:
    with torch.device("meta"):  # needs no memory for weights
        return timm.create_model(model_name)


def find_weights(
    argument: str, model_name: str, value: str, random_starts: Sequence[str]
) -> Path | None:
    """The local file that the value of an argument means; None: only the hub can have it."""
    if value == "imagenet":
        files = [WEIGHTS / f"{model_name}{suffix}" for suffix in SUFFIXES]
        return next((file for file in files if file.is_file()), None)
    file = resolve(value)
    if not file.name.endswith(SUFFIXES):
        raise ValueError(
            f"{argument}: expected imagenet, {', '.join(random_starts)} or a file "
            f"({', '.join(SUFFIXES)}), got {value!r}"
        )
    if not file.is_file():
        raise ValueError(
            f"{argument}: no file {display_path(file)}; put it there, or choose imagenet"
        )
    return file
