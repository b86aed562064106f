"""ONNX files of runs and of all approaches, and the measured costs of the runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fervit_lib import runs
from fervit_lib.evaluation import (
    Faces,
    export_run,
    load_predictor,
    measure_run,
    onnx_difference,
)
from fervit_lib.models import create_model, write_onnx

# Segmenters are exported in test_segmenter.py.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "scratch": lambda: create_model("scratch", 3, embed_dim=32, depth=1, num_heads=2),
    "all options of scratch": lambda: create_model(
        "scratch",
        3,
        embed_dim=32,
        depth=1,
        num_heads=2,
        attention="rectified",
        position="semantic",
        layer_norm=True,
        layer_gates=True,
        adapter_dim=4,
    ),
    "hybrid": lambda: create_model(
        "hybrid", 3, model_name="vit_tiny_patch16_224", pretrained="none"
    ),
    "latent_cnn": lambda: create_model("latent_cnn", 3, embed_dim=16, depth=2),
    "image ViT": lambda: create_model(
        "image", 3, pretrained="none", image_size=32, patch_size=8, num_blocks=2
    ),
    "image CNN": lambda: create_model(
        "image", 3, model_name="resnet18", pretrained="none", image_size=32
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_approach_can_be_exported_with_a_free_batch_size(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    shape = model.input_shape
    path = write_onnx(model, torch.rand(2, *shape), "inputs", tmp_path / "model.onnx")
    for batch in (1, 3):
        assert onnx_difference(path, model, torch.rand(batch, *shape)) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]  # weights included


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
