"""ONNX files of runs and of every option of all approaches, and the measured costs of the runs."""

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from fervit_lib import runs
from fervit_lib.encoders import Autoencoder
from fervit_lib.encoders.style_encoder import StyleEncoder
from fervit_lib.evaluation import Faces, export_run, load_predictor, measure_run
from fervit_lib.evaluation.export import EncoderAndModel, onnx_difference
from fervit_lib.figures.evaluation import table_of
from fervit_lib.models import create_model, write_onnx
from fervit_lib.models.attention import ATTENTIONS
from fervit_lib.models.create import APPROACHES
from fervit_lib.models.image_vit import RESIZE_METHODS, STEMS
from fervit_lib.models.latent_vit import POSITIONS

# By approach: options of a small model, and further values of every option that its class has.
CODES = {"num_tokens": [14, 16], "latent_dim": [64]}
VIT = CODES | {
    "layer_norm": [True],
    "layer_gates": [True],
    "adapter_dim": [4],
    "drop_rate": [0.3],
    "attn_drop_rate": [0.3],
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list]]] = {
    "scratch": (
        {"embed_dim": 32, "depth": 1, "num_heads": 2},
        VIT
        | {
            "attention": list(ATTENTIONS),
            "position": list(POSITIONS),
            "mlp_ratio": [1.0],
            "embed_dim": [16],
            "depth": [2],
            "num_heads": [1],
        },
    ),
    "hybrid": (
        {"pretrained": "none", "model_name": "test_vit", "num_blocks": 1},
        VIT
        | {
            "model_name": ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"],
            "num_blocks": [2],
        },
    ),
    "latent_cnn": (
        {"embed_dim": 16, "depth": 1},
        CODES | {"embed_dim": [32], "depth": [2], "drop_rate": [0.3]},
    ),
    "image": (
        {"pretrained": "none", "image_size": 32, "patch_size": 8, "num_blocks": 1},
        {
            "model_name": ["test_vit", "deit_tiny_distilled_patch16_224"],
            "image_size": [48],
            "patch_size": [16],
            "num_blocks": [2],
            "stem": list(STEMS),
            "resize_method": list(RESIZE_METHODS),
            "concat_pool": [True],
            "drop_rate": [0.3],
            "adapter_dim": [4],
        },
    ),
}
MODELS = [
    (approach, small | {option: value})
    for approach, (small, options) in OPTIONS.items()
    for option, values in options.items()
    for value in values
]
DEIT = "deit_tiny_distilled_patch16_224"
MODELS.append(("image", OPTIONS["image"][0] | {"model_name": DEIT, "token_head": True}))
MODELS += [
    ("image", {"model_name": name, "pretrained": "none", "image_size": size, "concat_pool": concat})
    for name, size in (
        ("face_cnn", 32),
        ("pixel_linear", 32),
        ("resnet18", 32),
        ("convnext_atto", 0),
        ("mobilenetv3_small_050", 0),
        ("swin_tiny_patch4_window7_224", 0),
    )
    for concat in (False, True)
]
MODELS += [
    ("hybrid", {"model_name": name, "pretrained": "none"})
    for name in (DEIT, "vit_base_patch16_clip_224")
]
MODELS += [
    ("scratch", OPTIONS["scratch"][0] | dict(zip(names, values, strict=True)))
    for names in [("attention", "position", "layer_norm", "layer_gates", "adapter_dim")]
    for values in itertools.product(ATTENTIONS, POSITIONS, (False, True), (False, True), (0, 4))
]
# The small models, and a LatentViT with all its options.
QUICK = [*((approach, small) for approach, (small, _) in OPTIONS.items()), MODELS[-1]]


def name_of(case: tuple[str, dict[str, Any]]) -> str:
    approach, options = case
    small = OPTIONS[approach][0]
    changed = [f"{k}={v}" for k, v in options.items() if small.get(k) != v]
    return " ".join([approach, *changed])


def check_export(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    write_onnx(model, torch.rand(2, *shape), "inputs", path)
    for batch in (1, 3):
        assert onnx_difference(path, model, torch.rand(batch, *shape)) < 1e-4
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # weights included


@pytest.mark.parametrize(
    "case",
    [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in MODELS if case not in QUICK)],
    ids=name_of,
)
def test_every_option_can_be_exported_with_a_free_batch_size(
    case: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    approach, options = case
    model = create_model(approach, 3, **options).eval()
    check_export(model, model.input_shape, tmp_path / "model.onnx")


def test_no_option_is_left_out() -> None:
    for approach, class_ in APPROACHES.items():
        options = set(inspect.signature(class_).parameters) - {"num_classes", "pretrained"}
        exported = {name for other, case in MODELS if other == approach for name in case}
        assert options - exported == set(), approach


@pytest.mark.parametrize(
    ("kind", "output_size"),
    [("autoencoder", 32)]
    + [
        pytest.param(kind, size, marks=pytest.mark.slow)
        for kind in (
            "psp",
            "e4e",
        )  # ReStyle computes kernels, which ONNX cannot
        for size in (256, 512, 1024)
    ],
)
def test_every_encoder_can_be_exported_with_a_model(
    kind: str, output_size: int, tmp_path: Path
) -> None:
    if kind == "autoencoder":
        encoder, num_tokens, width = Autoencoder(32), 18, 512
    else:
        stages = ((16, 1), (16, 1), (16, 1), (32, 1))
        encoder = StyleEncoder(kind, output_size, stages)
        num_tokens, width = encoder.latent_avg.shape
    options = OPTIONS["scratch"][0] | {"layer_norm": True, "layer_gates": True}
    model = create_model("scratch", 3, num_tokens=num_tokens, latent_dim=width, **options)
    whole = EncoderAndModel(encoder, model).eval()
    check_export(whole, (3, encoder.img_size, encoder.img_size), tmp_path / "whole.onnx")


class Unsupported(nn.Module):
    """The last step of a VGG, which the exporter refuses for a map of another size."""

    image_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 7 * 7, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(images, 7).flatten(1))


def test_a_model_that_cannot_be_exported_is_a_row_with_the_reason(tmp_path: Path) -> None:
    predictor = SimpleNamespace(model=Unsupported(), encoder=None)
    exported = export_run(predictor, tmp_path, [Image.new("RGB", (40, 40))] * 2)
    assert "adaptive_avg_pool2d" in exported["reason"].item()
    assert exported.drop(columns=["what", "reason"]).isna().all(axis=None)
    assert "adaptive_avg_pool2d" in table_of(exported, "onnx").to_html()
    assert not list(tmp_path.iterdir())
    # A full disk is no property of the model.
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        export_run(predictor, tmp_path / "file", [Image.new("RGB", (40, 40))] * 2)


@pytest.mark.parametrize("variant", ["scratch-full-seed0", "image-full-seed0"])
def test_a_run_is_exported_and_its_costs_are_measured(
    toy, finish_run: Callable[..., runs.Run], tmp_path: Path, variant: str
) -> None:
    run = finish_run(toy.reports, toy.store, variant, toy.classes)
    predictor = load_predictor(run.folder, "cpu")
    faces = Faces(toy.store).stratified_sample("test", 14, 0)
    images = [faces[i][0] for i in range(len(faces))]
    exported = export_run(predictor, tmp_path, images)
    expected = ["model"] if predictor.encoder is None else ["model", "encoder + model"]
    assert list(exported["what"]) == expected
    assert (exported["difference"] < 1e-4).all()
    assert exported["agrees"].all()
    assert (exported["latency_p50_ms"] > 0).all()
    assert {path.name for path in tmp_path.iterdir()} == set(exported["file"])
    if predictor.encoder is not None:
        session_inputs = torch.rand(1, 3, 32, 32)  # the batch of the encoder is free, too
        whole = nn.Sequential(Scale(), predictor.encoder.network, predictor.model)
        assert onnx_difference(tmp_path / "encoder-model.onnx", whole, session_inputs) < 1e-4
    row = measure_run(run, predictor, images)
    assert row["seconds_per_epoch"] == 1.5
    measured = ("macs", "latency_p50_ms", "throughput", "whole_p50_ms", "whole_throughput")
    for name in (*measured, "host_memory_gb"):
        assert row[name] > 0, name
    assert row["joules_per_face"] is None


class Scale(nn.Module):
    """[0, 1] → [-1, 1]."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * images - 1
