"""Models by name, and their checkpoints."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fervit_lib.models.hybrid_vit import HybridLatentViT
from fervit_lib.models.image_vit import ImageModel
from fervit_lib.models.latent_cnn import LatentCNN
from fervit_lib.models.latent_vit import LatentViT
from fervit_lib.runs import load_checkpoint, save_checkpoint

APPROACHES: dict[str, type[nn.Module]] = {
    "scratch": LatentViT,
    "hybrid": HybridLatentViT,
    "image": ImageModel,
    "latent_cnn": LatentCNN,
}


def create_model(approach: str, num_classes: int = 7, **options: Any) -> nn.Module:
    """A model by approach: one of `APPROACHES`; `options` are the keywords of its class.

    Raises:
        ValueError: an unknown approach or option, with the known ones.
    """
    known = _known_options(approach)
    if unknown := set(options) - known:
        raise ValueError(f"options: {approach} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    return APPROACHES[approach](num_classes, **options)


def options_of(approach: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a notebook's `parameters` that the model of `approach` takes."""
    return {name: parameters[name] for name in sorted(_known_options(approach) & set(parameters))}


def _known_options(approach: str) -> set[str]:
    if approach not in APPROACHES:
        raise ValueError(f"approach: expected one of {', '.join(APPROACHES)}, got {approach!r}")
    return set(inspect.signature(APPROACHES[approach]).parameters) - {"num_classes"}


def save_model(
    path: Path, model: nn.Module, *, approach: str, classes: Sequence[str], options: Mapping[str, Any]
) -> None:
    """Weights as safetensors, and in its header what `load_model` needs to build the model again."""
    save_checkpoint(
        path, model.state_dict(), {"approach": approach, "classes": list(classes), "options": dict(options)}
    )


def load_model(path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """The model of a checkpoint in eval mode, and its classes.

    Raises:
        FileNotFoundError, ValueError: as `runs.load_checkpoint`; or the keys differ from today's model.
    """
    tensors, metadata = load_checkpoint(path)
    if "approach" not in metadata:
        raise ValueError(f"{path}: expected a trained model, got a checkpoint of kind {metadata.get('kind')!r}")
    classes = tuple(metadata["classes"])
    options = metadata["options"]
    if "pretrained" in options:
        options |= {"pretrained": "none"}  # all weights are in the checkpoint
    model = create_model(metadata["approach"], len(classes), **options)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path}: made by another version of the model, train again ({error})") from error
    return model.eval(), classes
