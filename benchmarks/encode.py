"""How fast pSp's encoder makes codes: the plain way and this project's, the hardware's ceiling, all in one run.

    .venv/bin/python benchmarks/encode.py [--faces 64] [--batch-size 16] [--network-only] [--compile]

The plain way is what earlier tools of this research did: float32, contiguous, batches of 4, images decoded one by one.
Weights are random: speed does not depend on them. Ways take turns for `--repeats` rounds; the best of each counts.

The floor is what the network's multiply-adds would take at the rate of a large bf16 matrix product on the same device,
measured in the same run; the fraction reached is that time over the network's.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fervit_lib.datasets import FaceDataset
from fervit_lib.encoders import encode_faces, prepare_encoder
from fervit_lib.encoders.style_encoder import IMG_SIZE, StyleEncoder
from fervit_lib.system import runtime

PLAIN_BATCH = 4
FLOORS = {
    "cpu": "at least 4 times the plain way (2 cores with AMX)",
    "cuda": "at least 2,000 faces/s, 40 % (H200)",
}


def make_encoder(device: torch.device, **options: object) -> nn.Module:
    runtime.seed_everything(0)
    with torch.device(device):
        encoder = StyleEncoder("psp").requires_grad_(False)
    return prepare_encoder(encoder, device, **options)


def make_faces(folder: Path, n: int) -> FaceDataset:
    """JPEG files as photographs: smooth, with some noise."""
    rng = np.random.default_rng(0)
    (folder / "train" / "face").mkdir(parents=True)
    names = tuple(f"train/face/{i:05d}.jpg" for i in range(n))
    for name in names:
        smooth = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(
            (IMG_SIZE, IMG_SIZE)
        )
        noisy = np.clip(np.asarray(smooth) + rng.normal(0, 8, (IMG_SIZE, IMG_SIZE, 3)), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / name, quality=90)
    return FaceDataset(("face",), np.zeros(n, np.int64), names, folder)


@torch.inference_mode()
def encode_plainly(
    encoder: nn.Module, faces: FaceDataset, folder: Path, device: torch.device
) -> None:
    for first in range(0, len(faces), PLAIN_BATCH):
        images = []
        for i in range(first, min(first + PLAIN_BATCH, len(faces))):
            pixels = np.asarray(
                faces[i][0].convert("RGB").resize((IMG_SIZE, IMG_SIZE), Image.Resampling.BICUBIC)
            )
            images.append(
                torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous().float() / 127.5 - 1
            )
        codes = encoder(torch.stack(images).to(device)).cpu()
        for i, latent in enumerate(codes, first):
            torch.save(
                {"latent": latent.clone(), "label": 0, "img_path": faces.paths[i]},
                folder / f"{i:06d}.pt",
            )


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def best_of(
    ways: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Seconds by way; they take turns, so that a machine with other work to do is as busy for each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            seconds[name].append(seconds_of(work, device))
    return {name: min(times) for name, times in seconds.items()}


@torch.inference_mode()
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP a second of a large product of matrices."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(seconds_of(lambda: a @ b, device) for _ in range(10))


@torch.inference_mode()
def flops_per_face() -> float:
    with torch.device("meta"):
        encoder = StyleEncoder("psp").eval()
        with FlopCounterMode(display=False) as counter:
            encoder(torch.empty(1, 3, IMG_SIZE, IMG_SIZE))
    return counter.get_total_flops()


@torch.inference_mode()
def time_network(arguments: argparse.Namespace, device: torch.device) -> None:
    """The network alone, on images that are there already."""

    def batches(n: int, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
        return torch.randn(n, 3, IMG_SIZE, IMG_SIZE, device=device).to(
            dtype=dtype, memory_format=layout
        )

    rate, flops = matmul_rate(device, torch.bfloat16), flops_per_face()
    print(
        f"network: {flops / 1e9:.0f} GFLOP a face; bf16 matrix product: {rate / 1e12:.2f} TFLOP/s"
    )
    print(f"  the floor: {flops / rate * 1e3:.2f} ms a face", flush=True)
    settings = {
        "plain (float32, contiguous)": {"dtype": "float32", "channels_last": False},
        "bf16, contiguous": {"dtype": "bfloat16", "channels_last": False},
        "bf16, channels last": {"dtype": "bfloat16"},
        "bf16, channels last, styles grouped": {"dtype": "bfloat16", "group_styles": True},
    }
    if arguments.compile:
        settings["bf16, channels last, compiled"] = {"dtype": "bfloat16", "compile": True}
    times = {}
    for name, options in settings.items():
        encoder = make_encoder(device, **options)
        n = PLAIN_BATCH if name.startswith("plain") else arguments.batch_size
        layout = (
            torch.channels_last if options.get("channels_last", True) else torch.contiguous_format
        )
        images = batches(n, next(encoder.parameters()).dtype, layout)
        encoder(images)
        times[name] = (
            min(seconds_of(partial(encoder, images), device) for _ in range(1 + arguments.repeats))
            / n
        )
        plain = times["plain (float32, contiguous)"]
        print(
            f"  {name}, batch {n}: {times[name] * 1e3:.2f} ms a face, {plain / times[name]:.2f} times the plain way, "
            f"{flops / rate / times[name]:.0%} of the ceiling",
            flush=True,
        )


def time_files(arguments: argparse.Namespace, device: torch.device) -> None:
    """From JPEG files to shards, or to the plain way's .pt files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faces = make_faces(folder, arguments.faces)
        plain = make_encoder(device, dtype="float32", channels_last=False)
        ours = make_encoder(device, group_styles=arguments.group_styles, compile=arguments.compile)
        few = faces.subset(slice(0, 4 * PLAIN_BATCH if device.type == "cpu" else None))
        runs = iter(range(1000))

        def our_way() -> None:
            target = folder / f"store{next(runs)}"  # a new one: an old one would be kept
            encode_faces(
                ours,
                "random",
                faces,
                target,
                "train",
                device=device,
                batch_size=arguments.batch_size,
            )

        our_way()  # warm up, and compile
        ways = {"plain": lambda: encode_plainly(plain, few, folder, device), "ours": our_way}
        seconds = best_of(ways, arguments.repeats, device)
    rates = {"plain": len(few) / seconds["plain"], "ours": len(faces) / seconds["ours"]}
    print(f"JPEG files to codes on disk, {len(faces)} faces, batch {arguments.batch_size}:")
    print(f"  plain way: {rates['plain']:.2f} faces/s; ours: {rates['ours']:.2f} faces/s")
    print(
        f"  ratio: {rates['ours'] / rates['plain']:.2f} times the plain way; wanted: {FLOORS.get(device.type, '')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--faces", type=int, default=0, help="default: 32 on a CPU, 16,384 on a GPU"
    )
    parser.add_argument(
        "--batch-size", type=int, default=0, help="default: 16 on a CPU, 256 on a GPU"
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--network-only", action="store_true", help="leave out files")
    parser.add_argument("--group-styles", action="store_true", help="from files, too")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    device = runtime.get_device()
    arguments.faces = arguments.faces or (16384 if device.type == "cuda" else 32)
    arguments.batch_size = arguments.batch_size or (256 if device.type == "cuda" else 16)
    torch.backends.cudnn.benchmark = True
    print(f"pSp's encoder, {runtime.describe_device(device)}, torch {torch.__version__}")
    time_network(arguments, device)
    if not arguments.network_only:
        time_files(arguments, device)


if __name__ == "__main__":
    main()
