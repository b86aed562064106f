"""Time of one distillation step: this project against a straightforward implementation.

    .venv/bin/python benchmarks/distill.py [--image-size 256] [--epochs 5] [--tail 18]

Both train the same student (B0) from the same teacher (B3) with the same loss, alternating step by
step. The straightforward way runs the detector's whole graph to take a tensor from its middle,
copies each batch to the CPU and back through numpy, runs the teacher in float32, repeats all of it
in each epoch, and builds the models as smp does. This project cuts the graph, passes tensors by
DLPack, uses bf16 where the device is fast in it and channels-last memory, and caches targets by
content: the first epoch fills the cache, later ones read it.

What the cut saves depends on the part of the detector after the tensor: `--tail` sets the number of
layers there.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import onnx
import onnxruntime
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from fervit_lib import distillation
from fervit_lib.models import segmentation
from fervit_lib.system import runtime
from fervit_lib.training.precision import bf16_autocast

TENSOR = "/body/body.15/Relu_output_0"


class Detector(nn.Module):
    """A detector with random weights: 256 channels at an eighth of the side, then `tail` layers.

    With the default tail it takes about 90 GMAC for 640 pixels, a quarter of them before the
    tensor, like YOLOv9-E.
    """

    def __init__(self, tail: int) -> None:
        super().__init__()
        widths = [(3, 32, 2), (32, 128, 2), (128, 256, 2), *[(256, 256, 1)] * 5]
        self.body = _conv_layers(widths)
        self.tail = _conv_layers([(256, 256, 1)] * tail)
        self.head = nn.Conv2d(256, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tail(self.body(images)))


def _conv_layers(widths: list[tuple[int, int, int]]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for in_channels, out_channels, stride in widths:
        layers += [nn.Conv2d(in_channels, out_channels, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers)


def write_detector(path: Path, size: int, tail: int) -> None:
    torch.onnx.export(
        Detector(tail).eval(),
        (torch.zeros(2, 3, size, size),),
        str(path),
        input_names=["images"],
        output_names=["boxes"],
        dynamic_axes={"images": {0: "batch"}, "boxes": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def build_step(
    model: nn.Module,
    bf16: bool,
    weights: distillation.LossWeights = distillation.LossWeights(),  # noqa: B008  (frozen)
) -> Callable[..., float]:
    """Forward pass, loss, backward pass and AdamW step of a student."""
    loss_func = distillation.DistillLoss(weights)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    device = next(model.parameters()).device

    def step(images: Tensor, masks: Tensor, logits: Tensor, features: Tensor) -> float:
        with bf16_autocast(model, device) if bf16 else nullcontext():
            outputs = model.train()(images)
        loss = loss_func(outputs, masks, logits, features)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return step


def load_whole_graph(path: Path, device: torch.device) -> onnxruntime.InferenceSession:
    """The whole detector, with `TENSOR` as a second output."""
    model = onnx.load(path)
    output = onnx.helper.make_tensor_value_info(TENSOR, onnx.TensorProto.FLOAT, None)
    model.graph.output.append(output)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


def build_plain_segmenter(encoder: str) -> nn.Module:
    """A U-Net as smp builds it."""
    # The `timm-` encoders are deprecated, but the published teacher needs them.
    with warnings.catch_warnings(action="ignore"):
        return smp.Unet(encoder, encoder_weights=None, classes=1)


def measure_seconds(step: Callable[[int], object], number: int, device: torch.device) -> float:
    started = time.perf_counter()
    step(number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps per epoch")
    parser.add_argument("--tail", type=int, default=18, help="detector layers after the tensor")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    device = runtime.get_device()
    size = arguments.image_size
    batch_size = arguments.batch_size
    runtime.seed_everything(0)
    bf16 = runtime.has_fast_bf16(device)
    print(f"B0 from B3, {size} pixels, batch {batch_size}, {runtime.describe_device(device)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.onnx"
        write_detector(path, size, arguments.tail)
        source = distillation.OnnxFeatures(path, TENSOR, device)
        whole_graph = load_whole_graph(path, device)

    # The last batch is for warm-up only.
    shape = (arguments.steps + 1, batch_size)
    batches = torch.randn(*shape, 3, size, size, device=device)
    masks = torch.randint(0, 2, (*shape, size, size), dtype=torch.uint8, device=device)
    keys = [[f"{b}-{i}" for i in range(batch_size)] for b in range(len(batches))]

    plain_teacher = build_plain_segmenter(segmentation.TEACHER_ENCODER).to(device)
    segmentation.freeze(plain_teacher)
    teacher = segmentation.build_segmenter(segmentation.TEACHER_ENCODER).to(device)
    teacher.load_state_dict(plain_teacher.state_dict())
    targets = distillation.Targets(teacher, source, cache=distillation.BoundedCache(8e9), bf16=bf16)

    def student_step(student: nn.Module, bf16: bool) -> Callable[..., float]:
        model = distillation.build_tapped_student(
            student.to(device), source, distillation.FeatureTerm(), size
        )
        return build_step(model, bf16)

    plain_step = student_step(build_plain_segmenter(segmentation.STUDENT_ENCODER), False)
    our_step = student_step(segmentation.build_segmenter(), bf16)

    def plain(number: int) -> None:
        images = batches[number]
        pixels = segmentation.denormalise(images).cpu().numpy()
        _, features = whole_graph.run(["boxes", TENSOR], {"images": pixels})
        with torch.no_grad():
            logits = plain_teacher(images)
        plain_step(images, masks[number], logits, torch.from_numpy(features).to(device))

    def ours(number: int) -> None:
        images = batches[number]
        logits = targets.logits(images, keys[number])
        features = targets.features(images, keys[number])
        our_step(images, masks[number], logits, features)

    for step in (plain, ours):
        step(arguments.steps)
    seconds = [
        [
            [measure_seconds(step, n, device) for step in (plain, ours)]
            for n in range(arguments.steps)
        ]
        for _ in range(arguments.epochs)
    ]
    print_report(seconds)


def print_report(seconds: list[list[list[float]]]) -> None:
    """Print seconds per step; `seconds` by epoch, step and implementation (plain, ours)."""
    groups = {
        "first epoch": (seconds[:1], statistics.median),
        "later epochs": (seconds[1:], statistics.median),
        f"all {len(seconds)} epochs": (seconds, statistics.fmean),
    }
    for label, (epochs, average) in groups.items():
        if epochs:
            steps = [step for epoch in epochs for step in epoch]
            plain, ours = (average(times) for times in zip(*steps, strict=True))
            print(
                f"{label:>14}: plain {plain:7.3f} s per step, ours {ours:7.3f} s: "
                f"{plain / ours:5.2f} times as fast"
            )


if __name__ == "__main__":
    main()
