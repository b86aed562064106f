"""What a GPU computes, held against a CPU: `make test-gpu` runs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from fervit_lib import distillation, models, training
from fervit_lib.datasets import FaceDataset
from fervit_lib.encoders import encode_faces, prepare_encoder
from fervit_lib.encoders.style_encoder import StyleEncoder
from fervit_lib.evaluation.export import onnx_call
from fervit_lib.explain import smallest_flips
from fervit_lib.latents import LatentStore, complete_store
from fervit_lib.models import segmentation, write_onnx
from fervit_lib.report.run import list_gpus, reserve_gpus
from fervit_lib.system import runtime

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
GPU = torch.device("cuda")
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "drop_rate": 0.0}
EPOCHS = 4


class Interrupt(Callback):
    """Stop a fit in the middle of an epoch, as a user does."""

    def __init__(self, epoch: int) -> None:
        self.at_epoch = epoch

    def before_step(self) -> None:
        if self.epoch == self.at_epoch and self.iter == 2:
            raise KeyboardInterrupt


def fit(
    store: Path,
    folder: Path,
    *,
    device: torch.device = GPU,
    precision: str = "float32",
    interrupt_at: int | None = None,
) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """The curves and weights of a fit; `folder` keeps its state."""
    runtime.seed_everything(0)
    model = models.create_model("scratch", 3, **SMALL).to(device)
    dls = training.face_dls(model, store, batch_size=16, device=device)
    plan = training.get_strategy("full")
    optim = training.OptimConfig(precision=precision)
    cbs = [] if interrupt_at is None else [Interrupt(interrupt_at)]
    learn = training.build_learner(model, dls, plan, optim=optim, folder=folder, cbs=cbs)
    with learn.no_bar(), learn.no_logging():
        training.fit(learn, plan, epochs=EPOCHS, lr=1e-3, state=folder / "last.safetensors")
    curves = pd.read_csv(folder / "metrics.csv").drop(columns="seconds")
    return curves, {name: tensor.cpu() for name, tensor in model.state_dict().items()}


@pytest.fixture
def store(make_store: Callable[..., Path], tmp_path: Path) -> Path:
    return make_store(tmp_path / "store", noise=4.0)


@pytest.mark.parametrize(
    ("device", "precision", "rtol"),
    [(CPU, "float32", 1e-3), (GPU, "bf16", 0.05), (GPU, "fp16", 0.02)],
)
def test_a_fit_has_the_curves_of_float32_on_the_gpu(
    store: Path, tmp_path: Path, device: torch.device, precision: str, rtol: float
) -> None:
    expected, _ = fit(store, tmp_path / "expected")
    curves, _ = fit(store, tmp_path / "fit", device=device, precision=precision)
    losses = ["train_loss", "valid_loss"]
    np.testing.assert_allclose(curves[losses], expected[losses], rtol=rtol)
    assert len(curves) == EPOCHS and curves["train_loss"].is_monotonic_decreasing


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_an_interrupted_fit_ends_as_an_undisturbed_one(
    store: Path, tmp_path: Path, precision: str
) -> None:
    whole, weights = fit(store, tmp_path / "whole", precision=precision)
    with pytest.raises(KeyboardInterrupt):
        fit(store, tmp_path / "stopped", precision=precision, interrupt_at=2)
    resumed, resumed_weights = fit(store, tmp_path / "stopped", precision=precision)
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-3)
    torch.testing.assert_close(resumed_weights, weights, rtol=1e-3, atol=1e-4)


def test_codes_are_those_of_the_cpu(tmp_path: Path) -> None:
    runtime.seed_everything(0)
    stages = ((16, 1), (16, 1), (16, 1), (32, 1))
    encoder = StyleEncoder("psp", stages=stages).eval().requires_grad_(False)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 48, 48), dtype=np.uint8)
    names = tuple(f"faces.csv:{i}" for i in range(24))
    faces = FaceDataset(("face",), np.zeros(24, np.int64), names, Path("faces.csv"), pixels=pixels)
    codes = []
    for device in (CPU, GPU):
        folder = tmp_path / device.type
        prepared = prepare_encoder(encoder, device, dtype="float32")
        encode_faces(prepared, "random", faces, folder, "train", device=device, batch_size=10)
        made_from = {"classes": ("face",), "encoder": "psp", "faces": tmp_path, "synthetic": True}
        complete_store(folder, {"train": 24}, **made_from)
        codes.append(LatentStore.open(folder, "train").take(np.arange(24)).float())
    torch.testing.assert_close(codes[1], codes[0], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("approach", ["scratch", "image"])
def test_fused_attention_is_attention(approach: str) -> None:
    """Step by step and fused, in float32 and under bf16: logits and gradients."""
    runtime.seed_everything(0)
    options = {"model_name": "test_vit", "pretrained": "none"} if approach == "image" else SMALL
    model = models.create_model(approach, 3, **options).to(GPU).eval()
    inputs = torch.rand(4, *model.input_shape, device=GPU)
    results = []
    for fused in (False, True):
        models.set_fused_attention(model, fused)
        model.zero_grad()
        logits = model(inputs)
        logits.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            results.append((logits.detach(), gradient, model(inputs).float()))
    for stepwise, fused, tolerance in zip(*results, (1e-4, 1e-3, 5e-2), strict=True):
        torch.testing.assert_close(fused, stepwise, rtol=tolerance, atol=tolerance)


def test_moved_and_changed_codes_are_those_of_the_cpu() -> None:
    codes = torch.randn(8, 18, 512)
    directions = torch.randn(7, 18, 512)
    augment = training.AugmentCodes(move=1e-6, directions=directions)
    moved = augment.move_codes(codes.to(GPU), torch.arange(7).repeat(2)[:8].to(GPU))
    torch.testing.assert_close(moved.cpu(), codes, rtol=0, atol=1e-4)
    model = models.create_model("scratch", 7, **SMALL).eval()
    lengths = []
    for device in (CPU, GPU):
        changed, has_changed = smallest_flips(model.to(device), codes, range(18))
        assert changed.device == CPU
        lengths.append((changed - codes).norm(dim=(1, 2))[has_changed])
    torch.testing.assert_close(*lengths, rtol=0.05, atol=1e-3)


def test_a_distillation_step_is_that_of_the_cpu() -> None:
    runtime.seed_everything(0)
    teacher = segmentation.build_segmenter("resnet18")
    student = segmentation.build_segmenter("mobilenet_v2", decoder="slim")
    images = torch.randn(4, 3, 64, 64)
    masks = torch.randint(0, 2, (4, 64, 64), dtype=torch.uint8)
    loss_func = distillation.DistillLoss(distillation.LossWeights(feature=0.0))
    results = []
    for device in (CPU, GPU):
        targets = distillation.Targets(teacher.to(device))
        model = distillation.TappedStudent(student.to(device)).eval()  # batch norm as it is
        model.zero_grad()
        logits = targets.logits(images.to(device), list("abcd"))
        loss = loss_func(model(images.to(device)), masks.to(device), logits)
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        results.append((loss.detach().cpu(), gradients.cpu()))
    (loss_cpu, gradient_cpu), (loss_gpu, gradient_gpu) = results
    torch.testing.assert_close(loss_gpu, loss_cpu, rtol=1e-3, atol=0)
    assert (gradient_gpu - gradient_cpu).norm() < 0.01 * gradient_cpu.norm()


def test_onnx_runtime_computes_on_the_gpu_what_torch_does(tmp_path: Path) -> None:
    runtime.seed_everything(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(18 * 512, 64), nn.GELU(), nn.Linear(64, 7)).eval()
    inputs = torch.randn(5, 18, 512)
    path = write_onnx(model, inputs[:2], "w_plus", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CUDAExecutionProvider"])
    assert "CUDAExecutionProvider" in session.get_providers()  # it falls back silently
    [logits] = onnx_call(path, inputs, GPU)()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(inputs), rtol=1e-3, atol=1e-3)


def test_a_reserved_gpu_is_the_only_one_that_a_step_sees(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    count = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    with reserve_gpus(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] in list_gpus()
        done = subprocess.run(count, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
