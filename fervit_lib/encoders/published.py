"""Load published checkpoints of pSp and e4e, safely and strictly."""

import argparse
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fervit_lib.encoders.generator import Generator, build_mapping
from fervit_lib.encoders.style_encoder import STAGES, StyleEncoder
from fervit_lib.system.errors import check_unpacked_size, describe_error, explain_read_error
from fervit_lib.system.names import escape

ENCODER_TYPES = {
    "GradualStyleEncoder": "psp",
    "Encoder4Editing": "e4e",
    "BackboneEncoder": "restyle_psp",
    "ProgressiveBackboneEncoder": "restyle_e4e",
}
# Options that only e4e has.
E4E_OPTIONS = {"stylegan_size", "progressive_steps", "w_discriminator_lambda"}
OUTPUT_SIZE = 1024  # if the options do not give it, as in psp_ffhq_encode.pt
_RESTYLE = "github.com/yuval-alaluf/restyle-encoder"
SOURCES = {
    "psp": "psp_ffhq_encode.pt, linked from github.com/eladrich/pixel2style2pixel",
    "e4e": "e4e_ffhq_encode.pt, linked from github.com/omertov/encoder4editing",
    "restyle_psp": f"restyle_psp_ffhq_encode.pt, linked from {_RESTYLE}",
    "restyle_e4e": f"restyle_e4e_ffhq_encode.pt, linked from {_RESTYLE}",
}


def load_style_encoder(
    path: Path, kind: str, stages: Sequence[tuple[int, int]] = STAGES
) -> StyleEncoder:
    """Load the encoder of a published checkpoint: float32, in eval mode, on the CPU.

    Its weights stay a memory map of the file until they are moved or converted.

    Args:
        kind: psp, e4e, restyle_psp or restyle_e4e.
        stages: (channels, units) of the backbone's stages; published checkpoints have IR-SE50.

    Raises:
        FileNotFoundError: no such file; names its source.
        ValueError: the file is truncated, contains code or another kind of encoder, or its keys do
            not match exactly.
    """
    trouble = f"not a checkpoint of {kind} with an IR-SE50 backbone"
    with _explain(path, trouble, SOURCES[kind]):
        return _build(_read(path), kind, stages)


def load_generator(checkpoint: Path | str) -> Generator:
    """Load the generator beside the encoder of a published checkpoint, as `load_style_encoder`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, contains code or no generator, or its keys do not match
            exactly.
    """
    path = Path(checkpoint)
    trouble = "not a checkpoint with the generator of StyleGAN2"
    with _explain(path, trouble, " or ".join(SOURCES.values())):
        return _build_generator(_read(path))


@contextmanager
def _explain(path: Path, trouble: str, source: str) -> Iterator[None]:
    """As `explain_read_error`; a file that is missing is named with its source."""
    if not path.is_file():
        raise FileNotFoundError(f"{escape(path)}: no such checkpoint; put {source}, there")
    with explain_read_error(path, trouble, f"use {source}"):
        yield


def _read(path: Path) -> dict[str, Any]:
    check_unpacked_size(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # A file from before torch 1.6 is no zip archive and cannot be mapped.
            mmap = zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{escape(path)}: refused without running any of it: not a checkpoint, or it contains "
            f"more than tensors and plain options ({describe_error(error)}); use an official file"
        ) from error


def _build_generator(content: dict[str, Any]) -> Generator:
    _, weights = _split(content["state_dict"])
    with torch.device("meta"):  # needs no memory for weights that the file replaces
        model = Generator(_output_size(_options(content)), weights["input.input"].shape[1])
    model.mean_code = torch.zeros(model.mean_code.shape)
    model.load_state_dict(weights, strict=True, assign=True)
    if content.get("latent_avg") is not None:
        model.mean_code = _expand_latent_avg(content["latent_avg"], model.mean_code.shape)
    return model.float().requires_grad_(False).eval()


def _build(content: dict[str, Any], kind: str, stages: Sequence[tuple[int, int]]) -> StyleEncoder:
    weights, generator = _split(content["state_dict"])
    options = _options(content)
    _check_kind(options, kind)
    with torch.device("meta"):
        model = StyleEncoder(kind, _output_size(options), stages)
    model.latent_avg = torch.zeros(model.latent_avg.shape)
    model.load_state_dict(weights, strict=True, assign=True)
    model.starts_from_latent_avg = bool(options.get("start_from_latent_avg", True))
    if content.get("latent_avg") is not None:
        model.latent_avg = _expand_latent_avg(content["latent_avg"], model.latent_avg.shape)
        model.w_distance = _w_distance(generator, model.latent_avg)
    elif model.starts_from_latent_avg:
        raise ValueError("it has no latent_avg, which its codes are offsets from")
    if kind.startswith("restyle"):
        model.generator = _build_generator(content)
    return model.float().requires_grad_(False).eval()


def _options(content: dict[str, Any]) -> dict[str, Any]:
    options = content.get("opts", {})
    return vars(options) if isinstance(options, argparse.Namespace) else options


def _output_size(options: dict[str, Any]) -> int:
    return options.get("stylegan_size") or options.get("output_size") or OUTPUT_SIZE


def _check_kind(options: dict[str, Any], kind: str) -> None:
    """Encoders have the same parameters in pairs: only the options distinguish them."""
    actual = kind
    if "encoder_type" in options:
        actual = ENCODER_TYPES.get(options["encoder_type"], options["encoder_type"])
    elif E4E_OPTIONS & set(options):
        actual = "e4e"
    if actual != kind:
        raise ValueError(f"expected an encoder of kind {kind}, got {actual}")


def _split(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of the encoder and of the generator, without their prefixes."""
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    for key, tensor in state_dict.items():
        part, _, name = key.partition(".")
        if part not in parts:
            raise ValueError(f"expected only encoder.* and decoder.* in state_dict, got {key}")
        parts[part][name] = tensor
    return parts["encoder"], parts["decoder"]


def _expand_latent_avg(latent_avg: Tensor, shape: torch.Size) -> Tensor:
    """Mean `w` (dim,) or (1, dim) (`learn_in_w`), or mean `w+` → (num_styles, dim) float32."""
    if latent_avg.shape not in (shape, shape[1:], (1, *shape[1:]), (1, *shape)):
        raise ValueError(
            f"latent_avg: expected shape {tuple(shape)} or {tuple(shape[1:])}, got "
            f"{tuple(latent_avg.shape)}"
        )
    return latent_avg.float().reshape(-1, shape[1]).expand(shape).clone()


@torch.inference_mode()
def _w_distance(generator: Mapping[str, Tensor], latent_avg: Tensor) -> float | None:
    """Median distance from `latent_avg` of 1,024 codes of the mapping network; None without."""
    dim = latent_avg.shape[1]
    mapping = build_mapping(dim)
    weights = {
        name.removeprefix("style."): tensor
        for name, tensor in generator.items()
        if name.startswith("style.")
    }
    if weights.keys() != mapping.state_dict().keys():
        return None
    mapping.load_state_dict(weights)
    codes = mapping(torch.randn(1024, dim, generator=torch.Generator().manual_seed(0)))
    return (codes - latent_avg[0]).norm(dim=1).median().item()
