"""The measurements of `gpu_figures.py`: one function for each kind of figure.

Each builds a model with random weights, calls it as the notebooks do, and counts what a call asks
of the device.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import distill
import encode
import numpy as np
import onnxruntime
import torch
from card import Cost, CountCost, precision_of
from fastai.callback.core import Callback, CancelFitException
from fastai.data.core import DataLoaders
from torch import Tensor, nn

from fervit_lib import distillation, encoders, models, training
from fervit_lib.encoders.style_encoder import STAGES, StyleEncoder
from fervit_lib.evaluation.efficiency import CPU, latency, time_calls
from fervit_lib.evaluation.export import onnx_call, write_onnx
from fervit_lib.models import segmentation
from fervit_lib.training.data import TensorBatches

REPEATS = 50  # at most, of a timed call, which ends after two seconds

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Sizes:
    """What is measured: by default the published sizes, and FER2013's number of faces."""

    stages: tuple[tuple[int, int], ...] = STAGES  # of pSp's encoder
    encode_batch: int = 128
    autoencoder_batch: int = 1024
    files: int = 2048  # faces that are encoded from JPEG files
    latent_vit: Mapping[str, Any] = field(default_factory=dict)  # options
    hybrid: str = "vit_base_patch16_224"
    image_vit: str = "vit_small_patch16_224"
    face_size: int = 48  # pixels
    num_faces: int = 28_709
    train_batch: int = 256
    train_seconds: float = 5.0
    teacher: str = segmentation.TEACHER_ENCODER
    student: str = segmentation.STUDENT_ENCODER
    people_size: int = 640  # pixels
    people_batch: int = 16
    latency_batches: tuple[int, ...] = (1, 64)
    compile: bool = True  # measure with torch.compile, too


TINY = Sizes(
    stages=((16, 1), (16, 1), (16, 1), (16, 1)),
    encode_batch=2,
    autoencoder_batch=8,
    files=8,
    latent_vit={"embed_dim": 32, "depth": 2, "num_heads": 2},
    hybrid="test_vit",
    image_vit="test_vit",
    num_faces=64,
    train_batch=8,
    train_seconds=0.1,
    teacher="resnet18",
    student="mobilenet_v2",
    people_size=64,
    people_batch=2,
    latency_batches=(2,),
    compile=False,
)


@dataclass(frozen=True)
class Measured:
    """A measured call."""

    seconds: float  # per face or image; of a latency, per call
    cost: Cost  # likewise
    batch_size: int
    precision: str
    p95_seconds: float | None = None  # of a latency


def measure_encoder(
    build: Build, device: torch.device, batch: int, compile: bool = False
) -> Measured:
    """The network alone, of images that are on the device."""
    encoder = encoders.prepare_encoder(build().requires_grad_(False), device)
    call = encode.network_call(encoder, batch, device)
    # Not in inference mode, which hides the operators that composite ones consist of.
    with torch.no_grad(), CountCost(batch) as count:
        call()
    if compile:
        encoder.compile()
    with torch.inference_mode():
        seconds = float(np.median(time_calls(call, device, REPEATS)))
    precision = "bf16" if encoders.encoder_dtype(encoder) == torch.bfloat16 else "float32"
    return Measured(seconds / batch, count.cost, batch, precision)


def measure_files(sizes: Sizes, device: torch.device, batch: int) -> Measured:
    """From JPEG files to shards of codes, reading included."""
    build = partial(StyleEncoder, "psp", stages=sizes.stages)
    network = measure_encoder(build, device, batch)
    encoder = encoders.prepare_encoder(build().requires_grad_(False), device)
    with tempfile.TemporaryDirectory() as name:
        faces = encode.make_faces(Path(name), sizes.files)
        few = faces.subset(slice(batch))

        def work(faces: Any, store: str) -> None:
            encoders.encode_faces(
                encoder,
                "random",
                faces,
                Path(name, store),
                "train",
                device=device,
                batch_size=batch,
            )

        work(few, "warm-up")
        seconds = encode.measure_seconds(partial(work, faces, "store"), device)
    return replace(network, seconds=seconds / len(faces))


class Meter(Callback):
    """Time the steps of a fit after a warm-up, then end the fit.

    Attributes:
        cost: of one step per face, if counted.
        step_seconds: mean.
    """

    order = -100  # before all others, so that the count has everything that a step does
    warm_up = 5
    counted = 1  # the optimiser has its state by then

    def __init__(self, seconds: float, device: torch.device, count: bool) -> None:
        self.least_seconds = seconds
        self.device = device
        self.stack = ExitStack()
        self.counts = count
        self.steps = 0

    def before_batch(self) -> None:
        if self.training and self.steps == self.counted and self.counts:
            self.count = self.stack.enter_context(CountCost(self.dl.batch_len))

    def after_batch(self) -> None:
        self.stack.close()
        if not self.training:
            return
        self.steps += 1
        if self.steps == self.warm_up:
            encode.wait_for(self.device)
            self.started = time.perf_counter()
        elif self.steps > self.warm_up and time.perf_counter() - self.started > self.least_seconds:
            # The host is ahead of a GPU: the wait is part of the steps' time.
            encode.wait_for(self.device)
            passed = time.perf_counter() - self.started
            self.step_seconds = passed / (self.steps - self.warm_up)
            raise CancelFitException

    def after_cancel_fit(self) -> None:
        self.stack.close()


def measure_training(
    build: Build,
    strategy: str,
    sizes: Sizes,
    device: torch.device,
    batch: int,
    compile: bool = False,
) -> Measured:
    """Steps of a fit as in 02_train, with the faces on the device."""
    model = build().to(device)
    dls = make_dls(model, sizes, device, batch)
    plan = training.get_strategy(strategy, "random")

    def fit(seconds: float, count: bool) -> Meter:
        meter = Meter(seconds, device, count)
        with tempfile.TemporaryDirectory() as name:
            learn = training.build_learner(model, dls, plan, folder=Path(name), cbs=[meter])
            with learn.no_bar(), learn.no_logging():
                training.fit(learn, plan, epochs=1000, lr=1e-5)
        return meter

    meter = counted = fit(0.0 if compile else sizes.train_seconds, count=True)
    if compile:
        model.compile(dynamic=False)
        meter = fit(sizes.train_seconds, count=False)
    seconds = meter.step_seconds / batch
    return Measured(seconds, counted.count.cost, batch, precision_of(device))


def make_dls(
    model: models.ExpressionModel, sizes: Sizes, device: torch.device, batch: int
) -> DataLoaders:
    """Random faces on the device: codes in half precision, or images of uint8."""
    shape = (sizes.num_faces, *model.input_shape)
    inputs = torch.zeros(shape, dtype=torch.float16, device=device)
    if model.reads == "pixels":
        shape = (sizes.num_faces, 3, sizes.face_size, sizes.face_size)
        inputs = torch.zeros(shape, dtype=torch.uint8, device=device)
    inputs.random_(0, 2)
    labels = torch.arange(sizes.num_faces, device=device) % 7
    dls = DataLoaders(
        TensorBatches([inputs], labels, bs=batch, shuffle=True),
        TensorBatches([inputs[:batch]], labels[:batch], bs=batch),
        device=device,
    )
    dls.classes = tuple("abcdefg")
    return dls


class Pupil:
    """A random teacher, whose outputs are not cached, a student, and a batch of images."""

    def __init__(self, sizes: Sizes, device: torch.device, batch: int) -> None:
        self.device = device
        self.batch = batch
        bf16 = precision_of(device) == "bf16"
        teacher = segmentation.build_segmenter(sizes.teacher).to(device)
        self.targets = distillation.Targets(teacher, bf16=bf16)
        student = segmentation.build_segmenter(sizes.student).to(device)
        weights = distillation.LossWeights(feature=0.0)
        self.step = distill.build_step(distillation.TappedStudent(student), bf16, weights)
        images = torch.randn(batch, 3, sizes.people_size, sizes.people_size, device=device)
        self.images = images.to(memory_format=torch.channels_last)
        self.masks = torch.randint(0, 2, images[:, 0].shape, dtype=torch.uint8, device=device)

    def logits(self) -> Tensor:
        return self.targets.logits(self.images, [str(number) for number in range(self.batch)])

    def learn(self, logits: Tensor) -> None:
        self.step(self.images, self.masks, logits, None)

    def measure(self, call: Callable[[], object]) -> Measured:
        seconds = float(np.median(time_calls(call, self.device, REPEATS)))
        with CountCost(self.batch) as count:
            call()
        return Measured(seconds / self.batch, count.cost, self.batch, precision_of(self.device))


def measure_teacher(sizes: Sizes, device: torch.device, batch: int) -> Measured:
    """The teacher's forward pass."""
    pupil = Pupil(sizes, device, batch)
    return pupil.measure(pupil.logits)


def measure_student(sizes: Sizes, device: torch.device, batch: int) -> Measured:
    """A step of the student, with the teacher's outputs in the cache."""
    pupil = Pupil(sizes, device, batch)
    return pupil.measure(partial(pupil.learn, pupil.logits()))


def measure_both(sizes: Sizes, device: torch.device, batch: int) -> Measured:
    """The teacher's forward pass and a step of the student."""
    pupil = Pupil(sizes, device, batch)
    return pupil.measure(lambda: pupil.learn(pupil.logits()))


def measure_torch(build: Build, device: torch.device, batch: int) -> Measured:
    """A call of a model, with its inputs on the device, until its outputs are there."""
    model = build().eval().requires_grad_(False).to(device)
    models.set_fused_attention(model, device.type != "cpu")
    inputs = torch.rand(batch, *model.input_shape, device=device)
    precision = precision_of(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def call() -> None:
        with torch.no_grad(), autocast:
            model(inputs)
        encode.wait_for(device)

    times = latency(call, CPU)  # by the host's clock, which a user waits for
    with CountCost(1) as count:
        call()
    return _latency(times, count.cost, batch, precision)


def measure_onnx(build: Build, device: torch.device, batch: int) -> Measured:
    """A call of ONNX Runtime in float32, with inputs and outputs in the host's memory."""
    model = build().eval()
    models.set_fused_attention(model, False)
    inputs = torch.rand(max(2, batch), *model.input_shape)
    with tempfile.TemporaryDirectory() as name:
        path = write_onnx(model, inputs[:2], "inputs", Path(name) / "model.onnx")
        if device.type == "cuda":
            check_onnx_runtime(path)
        times = latency(onnx_call(path, inputs[:batch], device), CPU)
    with torch.no_grad(), CountCost(1) as count:
        model(inputs[:batch])
    return _latency(times, count.cost, batch, "float32")


def check_onnx_runtime(path: Path) -> None:
    """Raise RuntimeError if ONNX Runtime would compute on the CPU, which it does silently."""
    session = onnxruntime.InferenceSession(str(path), providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError("ONNX Runtime cannot use the GPU: its CUDA provider does not load")


def _latency(times: Mapping[str, float], cost: Cost, batch: int, precision: str) -> Measured:
    median, p95 = (times[f"latency_{name}_ms"] / 1000 for name in ("p50", "p95"))
    return Measured(median, cost, batch, precision, p95)
