"""A training step of distillation: this project's, and the naive way, in one run.

    .venv/bin/python benchmarks/distill.py [--image-size 256] [--batch-size 4] [--epochs 5] [--tail 18]

The naive way runs the detector's whole graph and takes a tensor from its middle, carries every batch to the CPU and
back through numpy, computes the teacher in float32, and all of it anew in every epoch, with models as the library of
U-Nets builds them. Ours cuts the graph, hands tensors over by DLPack, computes in bf16 where the device is fast in it
and channels last, and keeps what was computed by content: the first epoch fills the cache, the later ones read it, and
a training is both. Both train the same student, B0, from the same teacher, B3, with the same loss, in turns, step by
step. The share of the detector behind the tensor decides what the cut saves: `--tail` says how many layers there are.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from fervit_lib import distillation
from fervit_lib.models import segmentation
from fervit_lib.system import runtime
from fervit_lib.training.callbacks import enter_bf16

TENSOR = "/body/body.15/Relu_output_0"


class Detector(nn.Module):
    """A stand-in with random weights: 256 channels at an eighth of the side, and `tail` layers behind them.

    With the default tail it costs about 90 GMAC at 640 pixels, a quarter of them before the tensor, like YOLOv9-E.
    """

    def __init__(self, tail: int) -> None:
        super().__init__()
        widths = ((3, 32, 2), (32, 128, 2), (128, 256, 2), *[(256, 256, 1)] * 5)
        steps = [m for i, o, stride in widths for m in (nn.Conv2d(i, o, 3, stride, 1), nn.ReLU())]
        self.body = nn.Sequential(*steps)
        self.tail = nn.Sequential(
            *[m for _ in range(tail) for m in (nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU())]
        )
        self.head = nn.Conv2d(256, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tail(self.body(images)))


def write_detector(path: Path, size: int, tail: int) -> None:
    torch.onnx.export(
        Detector(tail).eval(), (torch.zeros(1, 3, size, size),), str(path), input_names=["images"],
        output_names=["boxes"], dynamic_axes={"images": {0: "batch"}, "boxes": {0: "batch"}}, opset_version=17,
        dynamo=False,
    )  # fmt: skip


def make_step(model: nn.Module, bf16: bool) -> Callable[..., float]:
    """Forward, loss, backward and AdamW of a student."""
    loss_func = distillation.DistillLoss(distillation.LossWeights())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if bf16:
        enter_bf16(model, next(model.parameters()).device)

    def step(images: Tensor, masks: Tensor, logits: Tensor, features: Tensor) -> float:
        loss = loss_func(model.train()(images), masks, logits, features)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return step


def naive_session(path: Path, device: torch.device) -> onnxruntime.InferenceSession:
    model = onnx.load(path)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(TENSOR, onnx.TensorProto.FLOAT, None)
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    first = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=[*first, "CPUExecutionProvider"]
    )


def plain_segmenter(encoder: str) -> nn.Module:
    """A U-Net as its library builds it."""
    with warnings.catch_warnings(
        action="ignore"
    ):  # `timm-` is deprecated, and the published teacher needs it
        return smp.Unet(encoder, encoder_weights=None, classes=1)


def seconds_of(call: Callable[[int], object], number: int, device: torch.device) -> float:
    """The seconds of a call, which is told its number."""
    started = time.perf_counter()
    call(number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="an epoch")
    parser.add_argument("--tail", type=int, default=18)
    arguments = parser.parse_args()
    device, size, steps = runtime.get_device(), arguments.image_size, arguments.steps
    runtime.seed_everything(0)
    bf16 = runtime.has_fast_bf16(device)
    print(
        f"B0 from B3, {size} pixels, batch {arguments.batch_size}, {runtime.describe_device(device)}"
    )
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "detector.onnx"
        write_detector(path, size, arguments.tail)
        source = distillation.OnnxFeatures(path, TENSOR, device)
        whole = naive_session(path, device)
    shape = (steps + 1, arguments.batch_size)
    batches = torch.randn(*shape, 3, size, size, device=device)
    masks = torch.randint(0, 2, (*shape, size, size), dtype=torch.uint8, device=device)
    keys = [[f"{b}-{i}" for i in range(arguments.batch_size)] for b in range(len(batches))]
    plain_teacher = segmentation.freeze(plain_segmenter(segmentation.TEACHER_ENCODER)).to(device)
    teacher = segmentation.build_segmenter(segmentation.TEACHER_ENCODER).to(device)
    teacher.load_state_dict(plain_teacher.state_dict())
    targets = distillation.Targets(teacher, source, cache=distillation.BoundedCache(8e9), bf16=bf16)
    students = plain_segmenter(segmentation.STUDENT_ENCODER), segmentation.build_segmenter()
    naive_step, our_step = (
        make_step(
            distillation.with_projector(student.to(device), source, "decoder", size), precision
        )
        for student, precision in zip(students, (False, bf16), strict=True)
    )

    def naive(number: int) -> None:
        images = batches[number]
        pixels = segmentation.denormalise(images).cpu().numpy()
        features = torch.from_numpy(whole.run(["boxes", TENSOR], {"images": pixels})[1]).to(device)
        with torch.no_grad():
            logits = plain_teacher(images)
        naive_step(images, masks[number], logits, features)

    def ours(number: int) -> None:
        images, key = batches[number], keys[number]
        our_step(images, masks[number], targets.logits(images, key), targets.features(images, key))

    for way in (naive, ours):
        way(steps)  # to warm up, with images of no epoch
    taken = [
        [[seconds_of(way, n, device) for way in (naive, ours)] for n in range(steps)]
        for _ in range(arguments.epochs)
    ]
    report(taken)


def report(taken: list[list[list[float]]]) -> None:
    """Print what seconds say, by epoch, step and way (naive, ours)."""
    first, later = taken[:1], taken[1:]
    for what, epochs in (
        ("first epoch", first),
        ("later epochs", later),
        (f"all {len(taken)} epochs", taken),
    ):
        if epochs:
            ways = zip(*(step for epoch in epochs for step in epoch), strict=True)
            mean = statistics.fmean if epochs is taken else statistics.median
            naive, ours = (mean(way) for way in ways)
            print(
                f"{what:>14}: naive {naive:7.3f} s a step, ours {ours:7.3f} s: {naive / ours:5.2f} times as fast"
            )


if __name__ == "__main__":
    main()
