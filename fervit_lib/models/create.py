"""Models by name, and their checkpoints."""

import inspect
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fervit_lib.models.base import ExpressionModel
from fervit_lib.models.hybrid_vit import HybridLatentViT
from fervit_lib.models.image_vit import ImageModel
from fervit_lib.models.latent_cnn import LatentCNN
from fervit_lib.models.latent_vit import LatentViT
from fervit_lib.models.own_code import code_of, is_own, load_own_class
from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write, json_default
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.names import check_choice
from fervit_lib.system.runtime import display_path

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


def describe_model(model: ExpressionModel) -> dict[str, Any]:
    """What a checkpoint holds beside the weights, so that `load_model` can build `model` again.

    Returns:
        approach, one of `APPROACHES` or the name of an own class; options, its keywords. Of an own
        class also module, positional (arguments without a name) and code, see `own_code`.

    Raises:
        ValueError: the model cannot be built again: an argument is not a JSON value, the code of
            its class is not complete, or a part was replaced after it was built.
    """
    if not isinstance(model, ExpressionModel):
        raise ValueError(f"model: expected an ExpressionModel, got a {type(model).__name__}")
    class_ = type(model)
    positional, options = model.built_with
    named = {f"argument {number}": value for number, value in enumerate(positional, 1)} | options
    for name, value in named.items():
        try:
            json.dumps(value, default=json_default)
        except TypeError as error:
            raise ValueError(
                f"{name}: expected a JSON value (text, number, bool, list or dict) as an argument "
                f"of {class_.__name__}, got a {type(value).__name__}; build it in __init__"
            ) from error
    # As a checkpoint returns them: a tuple becomes a list.
    positional, options = json.loads(json.dumps([positional, options], default=json_default))
    _check_structure(model, positional, options)
    approaches = {class_: name for name, class_ in APPROACHES.items()}
    if class_ in approaches:
        options.pop("num_classes", None)
        return {"approach": approaches[class_], "options": options}
    description = {
        "approach": class_.__qualname__,
        "module": class_.__module__,
        "positional": positional,
        "options": options,
    }
    if is_own(class_):
        return description | {"code": code_of(class_)}
    if vars(sys.modules[class_.__module__]).get(class_.__qualname__) is not class_:
        raise ValueError(
            f"model: expected a class at the top level of its module, got {class_.__qualname__}"
        )
    return description


def _check_structure(
    model: ExpressionModel, positional: list[Any], options: dict[str, Any]
) -> None:
    """Raise ValueError if building `model` again would give other modules or shapes."""
    structure = _structure(model)
    if structure == model.__dict__.get("checked_structure"):
        return  # building a model takes up to a second
    with torch.random.fork_rng(devices=[]):  # the run draws the same numbers as without this
        rebuilt = _structure(type(model)(*positional, **_without_download(type(model), options)))
    for got, expected in itertools.zip_longest(structure, rebuilt, fillvalue="nothing"):
        if got != expected:
            raise ValueError(
                f"model: {type(model).__name__} with its arguments builds {expected.strip()!r}, "
                f"got {got.strip()!r}: a part was replaced after it was built; write a subclass "
                f"that builds the part in __init__"
            )
    model.__dict__["checked_structure"] = structure


def _structure(model: ExpressionModel) -> list[str]:
    # On several GPUs, batch norm is SyncBatchNorm during a fit.
    modules = re.sub(r"(Sync)?BatchNorm(Act)?([123]d)?", r"BatchNorm\2", repr(model))
    shapes = [f"{name} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items()]
    return [*modules.splitlines(), *shapes]


def _without_download(class_: type[ExpressionModel], options: dict[str, Any]) -> dict[str, Any]:
    """Options that build the same model without pretrained weights."""
    if issubclass(class_, HybridLatentViT | ImageModel) and "pretrained" in options:
        return options | {"pretrained": "none"}
    return options


@distributed.rank_zero_only
def save_model(path: Path, model: ExpressionModel, *, classes: Sequence[str]) -> None:
    """Write the weights as safetensors, with what `load_model` needs in the header.

    The code of a class that a notebook defines is written beside it, as `model.py`.

    Raises:
        ValueError: see `describe_model`.
    """
    metadata = describe_model(model) | {"classes": list(classes)}
    if code := metadata.pop("code", None):
        with atomic_write(path.with_name("model.py")) as temporary:
            temporary.write_text(code, encoding="utf-8")
    save_checkpoint(path, model.state_dict(), metadata)


def load_class(path: Path, trust_code: bool = False) -> type[ExpressionModel]:
    """The class of a checkpoint's model.

    A class that is neither the library's nor defined in this process is code that came with the
    checkpoint: it is run only if the reader trusts it. Nothing is imported because a file names it.

    Args:
        trust_code: run `model.py` beside the checkpoint, and take the class that it defines.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of a model, or its class is not known here.
    """
    _, metadata = load_checkpoint(path)
    return _find_class(path, metadata, trust_code)


def _find_class(path: Path, metadata: dict[str, Any], trust_code: bool) -> type[ExpressionModel]:
    if "approach" not in metadata:
        raise ValueError(
            f"{path}: expected a trained model, got a checkpoint of kind {metadata.get('kind')!r}; "
            f"give best.safetensors of a run of 02_train"
        )
    name = metadata["approach"]
    if "module" not in metadata:
        check_choice("approach", name, APPROACHES)
        return APPROACHES[name]
    code = path.with_name("model.py")
    # `is True`: the text "false" of a command line is not a consent.
    if trust_code is True and code.is_file():
        class_ = load_own_class(code.read_text(encoding="utf-8"), str(code), name)
    else:
        # Not getattr: a module may import others when it is asked for a name that it does not have.
        module = sys.modules.get(metadata["module"])
        class_ = vars(module).get(name) if module else None
    if isinstance(class_, type) and issubclass(class_, ExpressionModel):
        return class_
    remedy = (
        f"read {display_path(code)}, then run it with trust_code=True"
        if code.is_file()
        else f"import {metadata['module']} first"
    )
    raise ValueError(
        f"{display_path(path)}: expected a class of the library or of this process, got {name} of "
        f"{metadata['module']}, which is not loaded here; {remedy}"
    )


def load_untrained(path: Path, trust_code: bool = False) -> ExpressionModel:
    """The model of a checkpoint as it was before training: pretrained, or from the seeded state."""
    _, metadata = load_checkpoint(path)
    return _build(_find_class(path, metadata, trust_code), metadata, metadata["options"])


def _build(
    class_: type[ExpressionModel], metadata: dict[str, Any], options: dict[str, Any]
) -> ExpressionModel:
    if "module" in metadata:
        return class_(*metadata["positional"], **options)
    return create_model(metadata["approach"], len(metadata["classes"]), **options)


def load_model(path: Path, trust_code: bool = False) -> tuple[ExpressionModel, tuple[str, ...]]:
    """Load the model of a checkpoint in eval mode, and its classes.

    Args:
        trust_code: see `load_class`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of a model, or of another version of it; or see `load_class`.
    """
    tensors, metadata = load_checkpoint(path)
    with explain_read_error(path, "made by another version of the model", "train again"):
        class_ = _find_class(path, metadata, trust_code)
        # All weights are in the checkpoint.
        model = _build(class_, metadata, _without_download(class_, metadata["options"]))
        model.load_state_dict(tensors)
        classes = tuple(metadata["classes"])
    return model.eval(), classes
