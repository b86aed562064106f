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
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.errors import explain_read_error

APPROACHES: dict[str, type[nn.Module]] = {
    "scratch": LatentViT,
    "hybrid": HybridLatentViT,
    "image": ImageModel,
    "latent_cnn": LatentCNN,
}
_COUNTS = ("num_classes", "embed_dim", "depth", "num_heads", "latent_dim", "num_tokens")
_COUNTS_OR_NONE = (
    "adapter_dim",
    "image_size",
    "patch_size",
    "num_blocks",
)  # 0: none, or the model's own
_SHARES = ("drop_rate", "attn_drop_rate")


def create_model(approach: str, num_classes: int = 7, **options: Any) -> nn.Module:
    """A model by approach: one of `APPROACHES`; `options` are the keywords of its class.

    Raises:
        ValueError: an unknown approach or option, with the known ones; or a number out of range.
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
    least = 1 if name in _COUNTS else 0
    if name in (*_COUNTS, *_COUNTS_OR_NONE) and (type(value) is not int or value < least):
        raise ValueError(f"{name}: expected a whole number from {least} up, got {value!r}")
    if name in _SHARES and (not isinstance(value, int | float) or not 0 <= value < 1):
        raise ValueError(f"{name}: expected a share in [0, 1), got {value!r}")
    if name == "mlp_ratio" and (not isinstance(value, int | float) or not 0 < value < 100):
        raise ValueError(f"mlp_ratio: expected a number above 0 and below 100, got {value!r}")


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
    """Weights as safetensors, and in its header what `load_model` needs to build the model again."""
    save_checkpoint(
        path,
        model.state_dict(),
        {"approach": approach, "classes": list(classes), "options": dict(options)},
    )


def load_model(path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """The model of a checkpoint in eval mode, and its classes.

    Raises:
        FileNotFoundError, ValueError: as `checkpoints.load_checkpoint`; or the keys differ from today's model.
    """
    tensors, metadata = load_checkpoint(path)
    if "approach" not in metadata:
        raise ValueError(
            f"{path}: expected a trained model, got a checkpoint of kind {metadata.get('kind')!r}; name "
            f"best.safetensors of a run of 02_train"
        )
    with explain_read_error(path, "made by another version of the model", "train again"):
        classes = tuple(metadata["classes"])
        options = metadata["options"]
        if "pretrained" in options:
            options |= {"pretrained": "none"}  # all weights are in the checkpoint
        model = create_model(metadata["approach"], len(classes), **options)
        model.load_state_dict(tensors)
        return model.eval(), classes
