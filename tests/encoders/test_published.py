"""pSp and e4e from checkpoints in the published format, with narrow layers."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fervit_lib.encoders.encode import prepare_encoder
from fervit_lib.encoders.load import load_encoder
from fervit_lib.encoders.published import load_style_encoder
from fervit_lib.encoders.style_encoder import StyleEncoder
from tests.encoders.test_generator import draw_by_formulas, make_weights

STAGES = ((16, 3), (16, 4), (32, 14), (48, 3))
TYPES = {
    "psp": "GradualStyleEncoder",
    "e4e": "Encoder4Editing",
    "restyle_psp": "BackboneEncoder",
    "restyle_e4e": "ProgressiveBackboneEncoder",
}
LAYERS = {1024: 18, 512: 16, 256: 14}


def make_encoder(kind: str, output_size: int = 1024) -> StyleEncoder:
    """With norms that are not the identity, so that a misplaced norm changes the result."""
    torch.manual_seed(0)
    model = StyleEncoder(kind, output_size, STAGES).eval()
    for tensor in model.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def make(kind: str, output_size: int = 1024, drop: str = "", **changes: Any) -> Path:
        weights = make_encoder(kind, output_size).state_dict()
        state = {f"encoder.{name}": tensor for name, tensor in weights.items()}
        for i in range(1, 3):  # too few layers for a mapping network
            state[f"decoder.style.{i}.weight"] = torch.randn(48, 48)
            state[f"decoder.style.{i}.bias"] = torch.randn(48)
        options = {"encoder_type": TYPES[kind], "start_from_latent_avg": True, "learn_in_w": False}
        if output_size != 1024:
            options["output_size" if kind == "psp" else "stylegan_size"] = output_size
        content = {
            "state_dict": state,
            "latent_avg": torch.randn(LAYERS[output_size], 48),
            "opts": options,
        }
        for name, change in changes.items():
            content[name] = content[name] | change if isinstance(change, dict) else change
        content = {name: part for name, part in content.items() if part is not None}
        if drop:
            del content["state_dict"][drop]
        torch.save(content, tmp_path / "checkpoint.pt")
        return tmp_path / "checkpoint.pt"

    return make


def encode_by_names(weights: dict[str, Tensor], x: Tensor, kind: str) -> Tensor:
    """The published architecture, computed from the names in a checkpoint alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift)

    x = F.prelu(
        norm(F.conv2d(x, weights["input_layer.0.weight"], padding=1), "input_layer.1"),
        weights["input_layer.2.weight"],
    )
    taps = []
    for i in range(24):
        name = f"body.{i}"
        stride = 2 if i in (0, 3, 7, 21) else 1
        short = x[:, :, ::stride, ::stride]
        if f"{name}.shortcut_layer.0.weight" in weights:
            short = norm(
                F.conv2d(x, weights[f"{name}.shortcut_layer.0.weight"], stride=stride),
                f"{name}.shortcut_layer.1",
            )
        y = F.conv2d(
            norm(x, f"{name}.res_layer.0"), weights[f"{name}.res_layer.1.weight"], padding=1
        )
        y = F.conv2d(
            F.prelu(y, weights[f"{name}.res_layer.2.weight"]),
            weights[f"{name}.res_layer.3.weight"],
            None,
            stride,
            1,
        )
        y = norm(y, f"{name}.res_layer.4")
        gate = F.conv2d(
            y.mean((2, 3), keepdim=True), weights[f"{name}.res_layer.5.fc1.weight"]
        ).relu()
        x = y * F.conv2d(gate, weights[f"{name}.res_layer.5.fc2.weight"]).sigmoid() + short
        if i in (6, 20, 23):
            taps.append(x)
    c1, c2, c3 = taps
    assert [tuple(tap.shape[1:]) for tap in taps] == [(16, 64, 64), (32, 32, 32), (48, 16, 16)]

    def lateral(small: Tensor, tap: Tensor, name: str) -> Tensor:
        large = F.interpolate(small, tap.shape[2:], mode="bilinear", align_corners=True)
        return large + F.conv2d(tap, weights[f"{name}.weight"], weights[f"{name}.bias"])

    restyle = kind.startswith("restyle")
    p2 = c3 if restyle else lateral(c3, c2, "latlayer1")
    p1 = c3 if restyle else lateral(p2, c1, "latlayer2")
    codes = []
    while f"styles.{len(codes)}.linear.weight" in weights:
        i = len(codes)
        y = c3 if i < 3 else p2 if i < 7 else p1
        for m in range(0, 2 * int(math.log2(y.shape[-1])), 2):
            weight = weights[f"styles.{i}.convs.{m}.weight"]
            bias = weights[f"styles.{i}.convs.{m}.bias"]
            y = F.leaky_relu(F.conv2d(y, weight, bias, 2, 1), 0.01)
        weight = weights[f"styles.{i}.linear.weight"]
        codes.append(
            F.linear(
                y.flatten(1), weight / weight.shape[1] ** 0.5, weights[f"styles.{i}.linear.bias"]
            )
        )
    if kind.endswith("e4e"):
        codes = [codes[0]] + [codes[0] + delta for delta in codes[1:]]
    return torch.stack(codes, 1)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "output_size"), [("psp", 1024), ("e4e", 1024), ("psp", 256), ("e4e", 512)]
)
def test_codes_equal_the_published_architecture(
    make_checkpoint: Callable, kind: str, output_size: int
) -> None:
    path = make_checkpoint(kind, output_size)
    model = load_style_encoder(path, kind, STAGES)
    content = torch.load(path)
    weights = {
        name.removeprefix("encoder."): w
        for name, w in content["state_dict"].items()
        if "encoder" in name
    }
    images = torch.rand(2, 3, 256, 256) * 2 - 1
    expected = encode_by_names(weights, images, kind) + content["latent_avg"]
    codes = model(images)
    assert not model.training
    assert codes.dtype == torch.float32
    assert codes.shape == (2, LAYERS[output_size], 48)
    assert (codes - expected).norm() < 1e-5 * expected.norm()
    for part in model.children():
        part.to(torch.bfloat16, memory_format=torch.channels_last)
    assert (model(images) - expected).norm() < 1e-2 * expected.norm()


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["restyle_psp", "restyle_e4e"])
@pytest.mark.parametrize("starts_from_average", [True, False])
def test_restyle_corrects_codes_by_what_the_generator_draws(
    tmp_path: Path, kind: str, starts_from_average: bool
) -> None:
    weights = make_encoder(kind, 512).state_dict()
    weights = {
        name: tensor * 0.3 if "linear" in name else tensor for name, tensor in weights.items()
    }
    assert weights["input_layer.0.weight"].shape[1] == 6
    decoder = make_weights(512, dim=48)
    average = torch.randn(16, 48)
    state = {f"encoder.{name}": tensor for name, tensor in weights.items()}
    state |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
    options = {
        "encoder_type": TYPES[kind],
        "input_nc": 6,
        "n_iters_per_batch": 5,
        "output_size": 512,
        "start_from_latent_avg": starts_from_average,
    }
    path = tmp_path / "restyle.pt"
    torch.save({"state_dict": state, "latent_avg": average, "opts": options}, path)
    model = load_style_encoder(path, kind, STAGES)
    assert model.iterations == 5
    model.iterations = 3
    images = torch.rand(2, 3, 256, 256) * 2 - 1

    def draw(codes: Tensor) -> Tensor:
        large = torch.cat([draw_by_formulas(decoder, code)[-1] for code in codes]).float()
        return large.unflatten(2, (256, 2)).unflatten(4, (256, 2)).mean((3, 5))

    codes = average.expand(2, -1, -1)
    for i in range(3):
        offsets = encode_by_names(weights, torch.cat([images, draw(codes)], dim=1), kind)
        codes = offsets + (codes if i or starts_from_average else 0)
    assert (model(images) - codes).norm() < 1e-4 * codes.norm()
    model = prepare_encoder(model, torch.device("cpu"), dtype="float32")
    assert (model(images) - codes).norm() < 1e-4 * codes.norm()
    model = prepare_encoder(model, torch.device("cpu"), dtype="bfloat16")
    assert (model(images) - codes).norm() < 0.1 * codes.norm()
    with pytest.raises(ValueError, match="expected an encoder of kind psp"):
        load_style_encoder(path, "psp", STAGES)


def test_names_and_shapes_at_full_size() -> None:
    with torch.device("meta"):
        shapes = {
            name: tuple(tensor.shape) for name, tensor in StyleEncoder("psp").state_dict().items()
        }
    parameters = [s for n, s in shapes.items() if "running" not in n and "num_batches" not in n]
    assert sum(map(math.prod, parameters)) == 267136704
    assert shapes["input_layer.0.weight"] == (64, 3, 3, 3)
    assert shapes["body.23.res_layer.5.fc1.weight"] == (32, 512, 1, 1)
    assert "body.0.shortcut_layer.0.weight" not in shapes
    assert shapes["body.3.shortcut_layer.0.weight"] == (128, 64, 1, 1)
    assert (shapes["latlayer1.weight"], shapes["latlayer2.weight"]) == (
        (512, 256, 1, 1),
        (512, 128, 1, 1),
    )
    for style, last_conv in ((2, 6), (3, 8), (7, 10)):
        convs = [name for name in shapes if name.startswith(f"styles.{style}.convs")]
        assert max(int(name.split(".")[3]) for name in convs) == last_conv


@pytest.mark.parametrize("shape", [(18, 48), (1, 48), (48,)])
def test_latent_avg_in_every_shape(make_checkpoint: Callable, shape: tuple[int, ...]) -> None:
    latent_avg = torch.randn(shape)
    added = load_style_encoder(
        make_checkpoint("psp", latent_avg=latent_avg, opts={"learn_in_w": True}), "psp", STAGES
    )
    assert torch.equal(added.latent_avg, latent_avg.expand(18, 48))
    plain = make_checkpoint("psp", latent_avg=latent_avg, opts={"start_from_latent_avg": False})
    images = torch.zeros(1, 3, 256, 256)
    without = load_style_encoder(plain, "psp", STAGES)(images)
    assert torch.equal(added(images), without + latent_avg.expand(18, 48))


def test_options_as_a_namespace(make_checkpoint: Callable) -> None:
    options = argparse.Namespace(
        encoder_type="Encoder4Editing", stylegan_size=1024, start_from_latent_avg=True
    )
    assert load_style_encoder(make_checkpoint("e4e", opts=options), "e4e", STAGES).kind == "e4e"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("e4e", {}, "kind e4e, got psp"),
        (
            "psp",
            {"opts": {"encoder_type": "Encoder4Editing"}},
            "kind psp, got e4e",
        ),
        (
            "psp",
            {"opts": {"encoder_type": "SingleStyleCodeEncoder"}},
            "kind psp, got SingleStyleCodeEncoder",
        ),
        ("psp", {"opts": argparse.Namespace(stylegan_size=1024)}, "got e4e"),
        ("psp", {"opts": {"output_size": 512}}, r"Unexpected key.*styles\.16"),
        ("psp", {"opts": {"output_size": 1000}}, "output_size: "),
        (
            "psp",
            {"drop": "encoder.body.7.res_layer.4.running_mean"},
            r"Missing key.*body\.7\.res_layer\.4\.running_mean",
        ),
        ("psp", {"state_dict": {"encoder.extra": torch.zeros(1)}}, "Unexpected key.*extra"),
        (
            "psp",
            {"state_dict": {"heads.0": torch.zeros(1)}},
            r"state_dict, got heads\.0",
        ),
        (
            "psp",
            {"state_dict": {"encoder.latlayer1.bias": torch.zeros(3)}},
            "size mismatch for latlayer1.bias",
        ),
        ("psp", {"latent_avg": None}, "no latent_avg"),
        ("psp", {"latent_avg": torch.zeros(14, 48)}, r"latent_avg: .*\(18, 48\)"),
        ("psp", {"opts": [1]}, "list"),
    ],
)
def test_a_checkpoint_that_does_not_match(
    make_checkpoint: Callable, kind: str, changes: dict, message: str
) -> None:
    path = make_checkpoint("psp", **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_style_encoder(path, kind, STAGES)
    assert str(path) in str(error.value) or "output_size" in message


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_run(make_checkpoint: Callable, tmp_path: Path) -> None:
    path = make_checkpoint("psp", opts={"device": Evil(tmp_path / "run")})
    with pytest.raises(ValueError, match=r"checkpoint\.pt: refused"):
        load_encoder(path, "psp")
    assert not (tmp_path / "run").exists()


def test_damaged_or_missing_files(make_checkpoint: Callable, tmp_path: Path) -> None:
    path = make_checkpoint("psp")
    valid = path.read_bytes()
    for content in (valid[: len(valid) // 2], valid[:-100], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.pt: (not a checkpoint|refused)"):
            load_encoder(path, "psp")
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a checkpoint"):
        load_encoder(path, "psp")
    with pytest.raises(FileNotFoundError, match=r"none\.pt: .*e4e_ffhq_encode\.pt"):
        load_encoder(tmp_path / "none.pt", "e4e")


@pytest.mark.parametrize(
    "shape", [(1, 3, 48, 48), (3, 256, 256), (1, 1, 256, 256), (1, 256, 256, 3)]
)
def test_images_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images: .*\(B, 3, 256, 256\)"):
        StyleEncoder("psp", 256, STAGES)(torch.zeros(shape))


def test_a_file_from_before_torch_1_6(make_checkpoint: Callable) -> None:
    path = make_checkpoint("psp")
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    assert load_style_encoder(path, "psp", STAGES).kind == "psp"
