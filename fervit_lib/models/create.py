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
from fervit_lib.system.names import check_choice

APPROACHES: dict[str, type[ExpressionModel]] = {
    "scratch": LatentViT,
    "hybrid": HybridLatentViT,
    "image": ImageModel,
    "latent_cnn": LatentCNN,
}


def create_model(approach: str, num_classes: int = 7, **options: Any) -> ExpressionModel:
    """Create a model by approach, one of `APPROACHES`; `options` are the keywords of its class.

    Raises:
        ValueError: an unknown approach or option, or a number out of range.
    """
    defaults = _defaults(approach)
    for name, value in options.items():
        if name not in defaults:
            raise ValueError(
                f"options: {approach} has no {name}; it has {', '.join(sorted(defaults))}"
            )
        _check_range(name, value, defaults[name])
    _check_range("num_classes", num_classes, 7)
    return APPROACHES[approach](num_classes, **options)


def _check_range(name: str, value: Any, default: Any) -> None:
    """Raise ValueError for a number out of the range that the option's default implies.

    An integer that is 0 by default may be 0 (none, or the timm model's own), another one has to be
    positive. A real number below 1 by default is a share.
    """
    # `type`, not isinstance: a bool is an int to Python.
    if type(default) is int:
        minimum = min(default, 1)
        if type(value) is not int or value < minimum:
            raise ValueError(f"{name}: expected an integer of at least {minimum}, got {value!r}")
    elif type(default) is float:
        low, high = (0, 1) if default < 1 else (0.01, 100)
        if not isinstance(value, int | float) or not low <= value < high:
            raise ValueError(f"{name}: expected a number in [{low}, {high}), got {value!r}")


def options_of(approach: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a notebook's `parameters` that the model of `approach` takes."""
    return {name: parameters[name] for name in sorted(_defaults(approach)) if name in parameters}


def _defaults(approach: str) -> dict[str, Any]:
    """The options of an approach with their defaults."""
    check_choice("approach", approach, APPROACHES)
    options = dict(inspect.signature(APPROACHES[approach]).parameters)
    del options["num_classes"]
    return {name: option.default for name, option in options.items()}


def save_model(
    path: Path,
    model: nn.Module,
    *,
    approach: str,
    classes: Sequence[str],
    options: Mapping[str, Any],
) -> None:
    """Write the weights as safetensors, with what `load_model` needs in the header."""
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
