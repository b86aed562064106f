"""The published checkpoints of pSp and e4e, read as they are: safely, strictly, and without the generator in memory."""

import argparse
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fervit_lib.encoders.irse import STAGES
from fervit_lib.encoders.style_encoder import StyleEncoder
from fervit_lib.system.errors import describe_error, explain_read_error

ENCODER_TYPES = {"GradualStyleEncoder": "psp", "Encoder4Editing": "e4e"}
E4E_OPTIONS = {
    "stylegan_size",
    "progressive_steps",
    "w_discriminator_lambda",
}  # that pSp does not have
OUTPUT_SIZE = 1024  # where the options do not say, as in psp_ffhq_encode.pt
SOURCES = {
    "psp": "psp_ffhq_encode.pt, linked from github.com/eladrich/pixel2style2pixel",
    "e4e": "e4e_ffhq_encode.pt, linked from github.com/omertov/encoder4editing",
}


def load_style_encoder(
    path: Path, kind: str, stages: Sequence[tuple[int, int]] = STAGES
) -> StyleEncoder:
    """The encoder of a published checkpoint, float32, in eval mode, on the CPU.

    Its weights stay a memory map of the file until they are moved or changed in precision.

    Args:
        stages: (channels, units) of the backbone's stages; the published ones are IR-SE50.

    Raises:
        FileNotFoundError: no such file; says where it comes from.
        ValueError: it is truncated, holds code, or another kind of encoder; or its weights are not just those needed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; place {SOURCES[kind]}, there")
    with explain_read_error(path, "cannot be used as a checkpoint", f"place {SOURCES[kind]}"):
        return _load(path, kind, stages)


def _load(path: Path, kind: str, stages: Sequence[tuple[int, int]]) -> StyleEncoder:
    content = _read(path)
    options = _options(path, content)
    _check_kind(path, options, kind)
    weights, generator = _split(path, content["state_dict"])
    try:
        with torch.device("meta"):
            model = StyleEncoder(kind, _output_size(options, kind), stages)
        model.latent_avg = torch.zeros(model.latent_avg.shape)
        model.load_state_dict(weights, strict=True, assign=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path}: its weights are not those of {kind} with an IR-SE50 backbone ({describe_error(error)}); place "
            f"{SOURCES[kind]}"
        ) from error
    model.starts_from_latent_avg = bool(options.get("start_from_latent_avg", True))
    if content.get("latent_avg") is not None:
        model.latent_avg = _latent_avg(path, content["latent_avg"], model.latent_avg.shape)
        model.w_distance = _w_distance(generator, model.latent_avg)
    elif model.starts_from_latent_avg:
        raise ValueError(
            f"{path}: no latent_avg, which its codes are offsets from; place {SOURCES[kind]}"
        )
    return model.float().requires_grad_(False).eval()


def _read(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                content = torch.load(
                    path, map_location="cpu", weights_only=True
                )  # a file from before torch 1.6
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused, nothing in it was run: it holds more than tensors and plain options, or is no "
            f"checkpoint ({describe_error(error)}); place an official file"
        ) from error
    except Exception as error:  # torch has no error of its own for a damaged file
        raise ValueError(
            f"{path}: cannot be read as a checkpoint ({describe_error(error)}); it is truncated or something else; "
            f"download it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        found = (
            ", ".join(map(str, list(content)[:5]))
            if isinstance(content, dict)
            else type(content).__name__
        )
        raise ValueError(
            f"{path}: expected state_dict, latent_avg and opts, got {found}; place an official file"
        )
    return content


def _options(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    options = content.get("opts", {})
    options = vars(options) if isinstance(options, argparse.Namespace) else options
    if not isinstance(options, Mapping):
        raise ValueError(
            f"{path}: expected opts as a dict or Namespace, got {type(options).__name__}"
        )
    return dict(options)


def _check_kind(path: Path, options: dict[str, Any], kind: str) -> None:
    """pSp and e4e have the same parameters: only the options tell them apart."""
    if "encoder_type" in options:
        found = ENCODER_TYPES.get(options["encoder_type"], options["encoder_type"])
    else:
        found = "e4e" if E4E_OPTIONS & set(options) else kind
    if found != kind:
        remedy = f"say encoder={found}" if found in SOURCES else f"known are {', '.join(SOURCES)}"
        raise ValueError(f"{path}: expected an encoder of kind {kind}, got {found}; {remedy}")


def _output_size(options: dict[str, Any], kind: str) -> int:
    names = ("output_size", "stylegan_size") if kind == "psp" else ("stylegan_size", "output_size")
    size = options.get(names[0]) or options.get(names[1]) or OUTPUT_SIZE
    if not isinstance(size, int):
        raise ValueError(f"output_size: expected an integer, got {size!r}")
    return size


def _split(
    path: Path, state_dict: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What belongs to the encoder and to the generator, without their prefixes."""
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    for key, tensor in state_dict.items():
        part, _, name = key.partition(".")
        if part not in parts or not isinstance(tensor, Tensor):
            raise ValueError(
                f"{path}: expected only encoder.* and decoder.* in state_dict, got {key!r}"
            )
        parts[part][name] = tensor
    return parts["encoder"], parts["decoder"]


def _latent_avg(path: Path, latent_avg: Any, shape: torch.Size) -> Tensor:
    """(num_styles, dim) float32 from a mean `w` (dim,) or (1, dim), as with `learn_in_w`, or `w+` of that shape."""
    known = (shape, shape[1:], (1, *shape[1:]), (1, *shape))
    if not isinstance(latent_avg, Tensor) or tuple(latent_avg.shape) not in map(tuple, known):
        came = (
            tuple(latent_avg.shape) if isinstance(latent_avg, Tensor) else type(latent_avg).__name__
        )
        raise ValueError(
            f"{path}: latent_avg: expected shape {tuple(shape)} or {tuple(shape[1:])}, got {came}"
        )
    return latent_avg.float().reshape(-1, shape[1]).expand(shape).clone()


@torch.inference_mode()
def _w_distance(
    generator: Mapping[str, Tensor], latent_avg: Tensor, samples: int = 1024
) -> float | None:
    """Median distance from `latent_avg` of codes that StyleGAN2's own mapping network makes of noise.

    The mapping network: Karras et al. 2020, 8 equalised layers at a hundredth of the learning rate.
    """
    layers = [(f"style.{i}.weight", f"style.{i}.bias") for i in range(1, 9)]
    dim = latent_avg.shape[1]
    if any(
        w not in generator or b not in generator or generator[w].shape != (dim, dim)
        for w, b in layers
    ):
        return None
    x = torch.randn(samples, dim, generator=torch.Generator().manual_seed(0))
    x = x * x.square().mean(1, keepdim=True).add(1e-8).rsqrt()
    for weight, bias in layers:
        x = F.linear(
            x, generator[weight].float() * (0.01 / math.sqrt(dim)), generator[bias].float() * 0.01
        )
        x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    return (x - latent_avg[0]).norm(dim=1).median().item()
