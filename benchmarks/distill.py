"""A training step of distillation: this project's, and the naive way, in one run.

    .venv/bin/python benchmarks/distill.py [--image-size 256] [--batch-size 4] [--tail 18]

The naive way runs the detector's whole graph and takes a tensor from its middle, carries every batch to the CPU and
back through numpy, computes the teacher in float32, and all of it anew in every epoch. Ours cuts the graph, hands
tensors over by DLPack, computes in bf16 where the device is fast in it, and keeps what was computed by content: the
first epoch is shown beside the later ones. Both train the same student, B0, from the same teacher, B3, with the same
loss. The share of the detector behind the tensor decides what the cut saves: `--tail` says how many layers there are.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from fervit_lib import distillation, runtime
from fervit_lib.models import segmentation

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
        self.tail = nn.Sequential(*[m for _ in range(tail) for m in (nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU())])
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

    def step(images: Tensor, masks: Tensor, logits: Tensor, features: Tensor) -> float:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            predicted = model.train()(images)
        loss = loss_func(predicted, masks, logits, features)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return step


def naive_session(path: Path, device: torch.device) -> onnxruntime.InferenceSession:
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info(TENSOR, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    first = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[*first, "CPUExecutionProvider"])


def seconds_of(call: Callable[[int], object], repeats: int, device: torch.device) -> float:
    """The median of a call's seconds; it is told its number."""
    taken = []
    for number in range(repeats):
        started = time.perf_counter()
        call(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tail", type=int, default=18)
    arguments = parser.parse_args()
    device, size = runtime.get_device(), arguments.image_size
    runtime.seed_everything(0)
    bf16 = runtime.fast_bf16(device)
    print(f"B0 from B3, {size} pixels, batch {arguments.batch_size}, {runtime.describe_device(device)}")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "detector.onnx"
        write_detector(path, size, arguments.tail)
        source = distillation.OnnxFeatures(path, TENSOR, device)
        whole = naive_session(path, device)
    teacher = segmentation.freeze(segmentation.build_segmenter(segmentation.TEACHER_ENCODER)).to(device)
    shape = (arguments.repeats + 1, arguments.batch_size)
    batches = torch.randn(*shape, 3, size, size, device=device)
    masks = torch.randint(0, 2, (*shape, size, size), dtype=torch.uint8, device=device)
    keys = [[f"{b}-{i}" for i in range(arguments.batch_size)] for b in range(len(batches))]

    def student() -> nn.Module:
        model = segmentation.build_segmenter()
        return distillation.with_projector(model.to(device), source, "decoder", size)

    naive_step, our_step = make_step(student(), False), make_step(student(), bf16)
    targets = distillation.Targets(teacher, source, cache=distillation.BoundedCache(8e9), bf16=bf16)

    def naive(number: int) -> None:
        images = batches[number]
        pixels = segmentation.denormalise(images).cpu().numpy()
        features = torch.from_numpy(whole.run(["boxes", TENSOR], {"images": pixels})[1]).to(device)
        with torch.no_grad():
            logits = teacher(images)
        naive_step(images, masks[number], logits, features)

    def ours(number: int) -> None:
        images, key = batches[number], keys[number]
        our_step(images, masks[number], targets.logits(images, key), targets.features(images, key))

    for way in (naive, ours):
        way(arguments.repeats)  # to warm up
    taken = {
        "naive": seconds_of(naive, arguments.repeats, device),
        "ours, first epoch": seconds_of(ours, arguments.repeats, device),
        "ours, later epochs": seconds_of(ours, arguments.repeats, device),
    }
    for way, seconds in taken.items():
        print(f"{way:>20}: {seconds:7.3f} s a step, {taken['naive'] / seconds:5.2f} times naive")


if __name__ == "__main__":
    main()
