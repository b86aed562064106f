"""Speed, memory and error of StyleGAN2's generator: the published way and this project's.

    .venv/bin/python benchmarks/generator.py [--repeats 3]

The published way scales the weights by the style of each face, and runs one grouped convolution
for the batch. Ours scales the maps, so that all faces share one convolution: in float32, and in
bf16. All have the same random weights at the published size. The ways alternate
for `--repeats` rounds, and the best round of each counts.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from encode import best_seconds
from torch import Tensor, nn

from fervit_lib.encoders.generator import Generator, ModulatedConv
from fervit_lib.system import runtime

OUTPUT_SIZE = 1024
SIZES = (32, 64, 128, 256, OUTPUT_SIZE)
BATCH_SIZES = (1, 4)
# The standard deviation of a photograph's pixels in [-1, 1]. Pictures of random weights have a
# larger one; errors in 8-bit levels are those of pictures scaled to this.
PHOTOGRAPH = 0.5


class GroupedConv(ModulatedConv):
    """The convolution as in Karras et al. 2020, section 2.2, equations 1 and 3."""

    def forward(self, x: Tensor, style: Tensor, demodulate: bool = True) -> Tensor:
        num_faces = len(x)
        weight = self.weight / self.weight[0, 0].numel() ** 0.5
        weight = weight * self.modulation(style)[:, None, :, None, None]
        if demodulate:
            weight = weight * weight.square().sum((2, 3, 4), keepdim=True).add(1e-8).rsqrt()
        x = x.contiguous().flatten(0, 1)[None]  # (1, B · in_channels, S, S)
        if self.blur is None:
            weight = weight.flatten(0, 1)
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=num_faces)
            return x[0].unflatten(0, (num_faces, -1))
        weight = weight.transpose(1, 2).flatten(0, 1)
        x = F.conv_transpose2d(x, weight, stride=2, groups=num_faces)
        return self.blur(x[0].unflatten(0, (num_faces, -1)))


def use_grouped_convs(generator: nn.Module) -> nn.Module:
    """Replace each modulated convolution by the published one with the same weights."""
    for module in generator.modules():
        conv = getattr(module, "conv", None)
        if isinstance(conv, ModulatedConv):
            _, channels, in_channels, size, _ = conv.weight.shape
            dim = conv.modulation.weight.shape[1]
            module.conv = GroupedConv(in_channels, channels, size, dim, conv.blur is not None)
            module.conv.load_state_dict(conv.state_dict())
    return generator


def make_generator(device: torch.device) -> nn.Module:
    """The same random weights at every call, with noise, which a new generator does not add."""
    runtime.seed_everything(0)
    generator = Generator(OUTPUT_SIZE)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise.weight"):
            parameter.data.fill_(0.1)
    return generator.to(device).eval().requires_grad_(False)


def make_ways(device: torch.device) -> dict[str, nn.Module]:
    ways = {
        "published": use_grouped_convs(make_generator(device)),
        "float32": make_generator(device),
    }
    if runtime.has_fast_bf16(device):
        ways["bf16"] = make_generator(device).bfloat16()
    return ways


def measure_memory(draw: Callable[[], object], device: torch.device) -> float:
    """Peak memory in GB of a call, without what the process holds before it."""
    runtime.reset_peak_memory(device)
    before = runtime.peak_memory(device)
    draw()
    return runtime.peak_memory(device) - before


def compare_pictures(picture: Tensor, reference: Tensor) -> str:
    """The relative error, and the mean difference in 8-bit levels of a photograph's range."""
    difference = picture - reference
    error = difference.norm() / reference.norm()
    levels = difference.abs().mean() / reference.std() * PHOTOGRAPH * 127.5
    return f"error {error:.1e}, {levels:.2f} levels of 255"


def time_size(
    ways: dict[str, nn.Module], size: int, batch_size: int, repeats: int, device: torch.device
) -> None:
    codes = torch.randn(batch_size, *ways["float32"].mean_code.shape, device=device)
    calls = {name: partial(way, codes, size) for name, way in ways.items()}
    pictures = {name: draw() for name, draw in calls.items()}  # also warms up
    seconds = best_seconds(calls, repeats, device)
    for name, of_way in seconds.items():
        line = f"{size:5} px, batch {batch_size}, {name:9} {of_way / batch_size:7.3f} s per face"
        line += f", {seconds['published'] / of_way:5.2f} times the published way"
        if size == OUTPUT_SIZE:
            line += f", {measure_memory(calls[name], device) / batch_size:.2f} GB"
        if name != "float32":
            line += f", {compare_pictures(pictures[name], pictures['float32'])}"
        print(line, flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="at 1024 pixels one less")
    arguments = parser.parse_args()
    device = runtime.get_device()
    print(f"StyleGAN2, {runtime.describe_device(device)}, torch {torch.__version__}")
    ways = make_ways(device)
    for size in SIZES:
        is_largest = size == OUTPUT_SIZE
        for batch_size in BATCH_SIZES[:1] if is_largest else BATCH_SIZES:
            repeats = max(1, arguments.repeats - is_largest)
            time_size(ways, size, batch_size, repeats, device)
    print(
        "Errors are relative to ours in float32. Weights are random; speed does not depend on it."
    )


if __name__ == "__main__":
    main()
