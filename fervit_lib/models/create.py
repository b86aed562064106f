"""Models by name, and their checkpoints."""

import copy
import inspect
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fervit_lib.models.base import ExpressionModel
from fervit_lib.models.hybrid_vit import HybridLatentViT
from fervit_lib.models.image_vit import ImageModel
from fervit_lib.models.latent_cnn import LatentCNN
from fervit_lib.models.latent_vit import LatentViT
from fervit_lib.models.own_code import code_of, is_own, load_own_class
from fervit_lib.system import distributed
from fervit_lib.system.atomic import json_default, write_text
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.identity import digest
from fervit_lib.system.names import check_choice, check_range
from fervit_lib.system.runtime import display_path

APPROACHES = {
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
        check_range(name, value, *((0, 1) if default < 1 else (0.01, 100)))


def options_of(approach: str, parameters: Mapping) -> dict:
    """Those of a notebook's `parameters` that the model of `approach` takes."""
    return {name: parameters[name] for name in sorted(_defaults(approach)) if name in parameters}


def _defaults(approach: str) -> dict:
    """The options of an approach with their defaults."""
    check_choice("approach", approach, APPROACHES)
    options = dict(inspect.signature(APPROACHES[approach]).parameters)
    del options["num_classes"]
    return {name: option.default for name, option in options.items()}


def describe_model(model: ExpressionModel) -> dict:
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
    name = class_.__qualname__
    try:
        # As a checkpoint returns them: a tuple becomes a list.
        positional, options = json.loads(json.dumps(model.built_with, default=json_default))
    except TypeError as error:
        raise ValueError(
            f"model: expected JSON values (text, number, bool, list or dict) as arguments of "
            f"{name}, got {model.built_with!s:.300}; build others in __init__"
        ) from error
    description = {
        "approach": name,
        "module": class_.__module__,
        "positional": positional,
        "options": options,
    }
    if is_own(class_):
        description["code"] = code_of(class_)
    _check_rebuilt(model, description)
    for approach, library_class in APPROACHES.items():
        if class_ is library_class:
            options.pop("num_classes", None)
            return {"approach": approach, "options": options}
    return description


def _check_rebuilt(model: ExpressionModel, description: dict) -> None:
    """Raise ValueError if `description` does not build `model` again, whatever its weights."""
    structure = _structure(model)
    code = description.get("code")
    if [*structure, code] == model.__dict__.get("checked"):
        return  # building a model takes up to a second
    name = description["approach"]
    with (
        explain_read_error(
            "model",
            f"{name} cannot be built again from its code and arguments",
            "define the class and all that it uses at the top level of cells or of a module, and "
            "pass computed values as arguments of __init__",
        ),
        torch.random.fork_rng(devices=[]),  # the run draws the same numbers as without this
        torch.no_grad(),
    ):
        if code:
            class_ = load_own_class(code, "model.py", name)
        else:
            class_ = vars(sys.modules[description["module"]])[name]
        options = _without_download(class_, description["options"])
        rebuilt = class_(*description["positional"], **options)
        for got, expected in itertools.zip_longest(structure, _structure(rebuilt), fillvalue="-"):
            if got != expected:
                raise ValueError(
                    f"model: {name} with its arguments builds {expected.strip()!r}, got "
                    f"{got.strip()!r}: a part was replaced after it was built; write a subclass "
                    f"that builds the part in __init__"
                )
        # The code may be complete and yet not what ran, such as a method that was replaced.
        rebuilt.load_state_dict(model.state_dict())
        inputs = torch.rand(1, *model.input_shape)
        logits = copy.deepcopy(model).cpu().eval()(inputs)
        if not logits.allclose(rebuilt.eval()(inputs), rtol=1e-3, atol=1e-5):
            raise ValueError("with the same weights it returns other logits")
    model.__dict__["checked"] = [*structure, code]


def _structure(model: ExpressionModel) -> list[str]:
    # On several GPUs, batch norm is SyncBatchNorm during a fit.
    modules = re.sub(r"(Sync)?BatchNorm(Act)?([123]d)?", r"BatchNorm\2", repr(model))
    shapes = [f"{name} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items()]
    return [*modules.splitlines(), *shapes]


def _without_download(class_: type[ExpressionModel], options: dict) -> dict:
    """Options that build the same model without pretrained weights."""
    if issubclass(class_, HybridLatentViT | ImageModel) and "pretrained" in options:
        return options | {"pretrained": "none"}
    return options


@distributed.rank_zero_only
def save_model(
    path: Path,
    model: ExpressionModel,
    *,
    classes: Sequence[str],
    codes: Mapping | None = None,
) -> None:
    """Write the weights as safetensors, with what `load_model` needs in the header.

    The code of a class that a notebook defines is written beside it, as `model.py`.

    Args:
        codes: what the model is trained on, see `latents.store_identity`; None: unknown.

    Raises:
        ValueError: see `describe_model`.
    """
    metadata = describe_model(model) | {"classes": list(classes), "codes": dict(codes or {})}
    code_file = path.with_name("model.py")
    if code := metadata.get("code"):
        metadata["code"] = digest(code)
        write_text(code_file, code)
    else:
        code_file.unlink(missing_ok=True)  # of an earlier fit with another class
    save_checkpoint(path, model.state_dict(), metadata)


def load_class(path: Path, trust_code: bool) -> type[ExpressionModel]:
    """The class of a checkpoint's model.

    A class that is neither the library's nor defined in this process is code that came with the
    checkpoint: it is run only if the reader trusts it. Nothing is imported because a file names it.

    Args:
        trust_code: run `model.py` beside the checkpoint, and take the class that it defines.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of a model, or its class is not known here.
    """
    return _open(path, trust_code)[0]


def _open(path: Path, trust_code: bool) -> tuple[type[ExpressionModel], dict[str, Tensor], dict]:
    """The class of a checkpoint's model, the weights, and what `describe_model` returned."""
    tensors, metadata = load_checkpoint(path)
    if "approach" not in metadata:
        raise ValueError(
            f"{path}: expected a trained model, got a checkpoint of kind {metadata.get('kind')!r}; "
            f"give best.safetensors of a run of 02_train"
        )
    name = metadata["approach"]
    if "module" not in metadata:
        check_choice("approach", name, APPROACHES)
        return APPROACHES[name], tensors, metadata
    code = path.with_name("model.py")
    # `is True`: the text "false" of a command line is not a consent.
    if trust_code is True and code.is_file():
        with explain_read_error(code, "it cannot be run", "train again"):
            if digest(code.read_text(encoding="utf-8")) != metadata["code"]:
                raise ValueError("it has changed since it was written")
            class_ = load_own_class(code.read_text(encoding="utf-8"), str(code), name)
    else:
        # Not getattr: a module may import others when it is asked for a name that it does not have.
        module = sys.modules.get(metadata["module"])
        class_ = vars(module).get(name) if module else None
    is_model = isinstance(class_, type) and issubclass(class_, ExpressionModel)
    if is_model and is_own(class_) and code.is_file():
        # A cell may have defined another class under this name since.
        is_model = code_of(class_) == code.read_text(encoding="utf-8")
    if is_model:
        return class_, tensors, metadata
    remedy = (
        f"read {display_path(code)}, then run it with trust_code=True"
        if code.is_file()
        else f"import {metadata['module']} first"
    )
    raise ValueError(
        f"{display_path(path)}: expected a class of the library or of this process, got {name} of "
        f"{metadata['module']}, which is not loaded here; {remedy}"
    )


def trained_on(path: Path) -> dict:
    """What a checkpoint's model is trained on, see `latents.store_identity`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of a model that 02_train wrote.
    """
    codes = load_checkpoint(path)[1].get("codes")
    if not codes:
        raise ValueError(f"{path}: it does not say which codes it was trained on; train again")
    return codes


def load_untrained(path: Path, trust_code: bool) -> ExpressionModel:
    """The model of a checkpoint as it was before training: pretrained, or from the seeded state."""
    class_, _, metadata = _open(path, trust_code)
    return _build(class_, metadata)


def _build(class_: type[ExpressionModel], metadata: dict) -> ExpressionModel:
    if "module" in metadata:
        return class_(*metadata["positional"], **metadata["options"])
    return create_model(metadata["approach"], len(metadata["classes"]), **metadata["options"])


def load_model(path: Path, trust_code: bool = False) -> tuple[ExpressionModel, tuple[str, ...]]:
    """Load the model of a checkpoint in eval mode, and its classes.

    Args:
        trust_code: see `load_class`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of a model, or of another version of it; or see `load_class`.
    """
    with explain_read_error(path, "made by another version of the model", "train again"):
        class_, tensors, metadata = _open(path, trust_code)
        # All weights are in the checkpoint.
        options = _without_download(class_, metadata["options"])
        model = _build(class_, metadata | {"options": options})
        model.load_state_dict(tensors)
        classes = tuple(metadata["classes"])
        model.face_size = metadata["codes"].get("face_size", 0)
    return model.eval(), classes
