"""Models by name, and their checkpoints."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fervit_lib.models.base import ExpressionModel
from fervit_lib.models.hybrid_vit import HybridLatentViT
from fervit_lib.models.image_vit import ImageModel
from fervit_lib.models.latent_cnn import LatentCNN
from fervit_lib.models.latent_vit import LatentViT
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.errors import explain_read_error

APPROACHES: dict[str, type[ExpressionModel]] = {
    "scratch": LatentViT,
    "hybrid": HybridLatentViT,
    "image": ImageModel,
    "latent_cnn": LatentCNN,
}
# Integer options and their minimum; a 0 stands for none, or for the timm model's own.
_MINIMUM = {
    "num_classes": 1,
    "embed_dim": 1,
    "depth": 1,
    "num_heads": 1,
    "latent_dim": 1,
    "num_tokens": 1,
    "adapter_dim": 0,
    "image_size": 0,
    "patch_size": 0,
    "num_blocks": 0,
}
# Real options: their minimum, and the value that they have to stay below.
_RANGE = {"drop_rate": (0, 1), "attn_drop_rate": (0, 1), "mlp_ratio": (0.01, 100)}


def create_model(approach: str, num_classes: int = 7, **options: Any) -> ExpressionModel:
    """Create a model by approach, one of `APPROACHES`; `options` are the keywords of its class.

    Raises:
        ValueError: an unknown approach or option, or a number out of range.
    """
    known = _known_options(approach)
    if unknown := set(options) - known:
        raise ValueError(
            f"options: {approach} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}"
        )
    for name, value in {"num_classes": num_classes, **options}.items():
        _check_range(name, value)
    return APPROACHES[approach](num_classes, **options)


def _check_range(name: str, value: Any) -> None:
    minimum = _MINIMUM.get(name)
    # `type`, not isinstance: True is an int to Python.
    if minimum is not None and (type(value) is not int or value < minimum):
        raise ValueError(f"{name}: expected an integer of at least {minimum}, got {value!r}")
    if name in _RANGE:
        low, high = _RANGE[name]
        if not isinstance(value, int | float) or not low <= value < high:
            raise ValueError(f"{name}: expected a number in [{low}, {high}), got {value!r}")


def options_of(approach: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a notebook's `parameters` that the model of `approach` takes."""
    return {name: parameters[name] for name in sorted(_known_options(approach) & set(parameters))}


def _known_options(approach: str) -> set[str]:
    if approach not in APPROACHES:
        raise ValueError(f"approach: expected one of {', '.join(APPROACHES)}, got {approach!r}")
    return set(inspect.signature(APPROACHES[approach]).parameters) - {"num_classes"}


def save_model(
    path: Path,
    model: nn.Module,
    *,
    approach: str,
    classes: Sequence[str],
    options: Mapping[str, Any],
) -> None:
    """Write the weights as safetensors; its header holds what `load_model` needs to create the model again."""
    metadata = {"approach": approach, "classes": list(classes), "options": dict(options)}
    save_checkpoint(path, model.state_dict(), metadata)


def load_model(path: Path) -> tuple[ExpressionModel, tuple[str, ...]]:
    """Load the model of a checkpoint in eval mode, and its classes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of a model, or of another version of it.
    """
    tensors, metadata = load_checkpoint(path)
    if "approach" not in metadata:
        raise ValueError(
            f"{path}: expected a trained model, got a checkpoint of kind {metadata.get('kind')!r}; "
            f"give best.safetensors of a run of 02_train"
        )
    with explain_read_error(path, "made by another version of the model", "train again"):
        classes = tuple(metadata["classes"])
        options = metadata["options"]
        if "pretrained" in options:
            options["pretrained"] = "none"  # all weights are in the checkpoint
        model = create_model(metadata["approach"], len(classes), **options)
        model.load_state_dict(tensors)
    return model.eval(), classes
