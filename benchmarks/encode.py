"""Throughput of pSp's encoder: the plain way and this project's, with the hardware's limit.

    .venv/bin/python benchmarks/encode.py [--faces 64] [--batch-size 16] [--compile]

The plain way is that of earlier research code: float32, contiguous, batches of 4, images decoded
one by one. Weights are random, since speed does not depend on them. The ways alternate for
`--repeats` rounds, and the best round of each counts.

The limit is the time of the network's multiply-adds at the rate of a large bf16 matrix product on
the same device, measured in the same run.
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
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fervit_lib.datasets import FaceDataset
from fervit_lib.encoders import encode_faces, encoder_dtype, prepare_encoder
from fervit_lib.encoders.style_encoder import IMG_SIZE, StyleEncoder
from fervit_lib.system import runtime

PLAIN_BATCH = 4
TARGETS = {
    "cpu": "at least 4 times the plain way (2 cores with AMX)",
    "cuda": "at least 2,000 faces/s, 40% of the limit (H200)",
}


def make_encoder(device: torch.device, **options: object) -> nn.Module:
    """A random pSp encoder, prepared as in 01_encode."""
    return prepare_encoder(make_plain_encoder(device), device, **options)


def make_plain_encoder(device: torch.device) -> nn.Module:
    runtime.seed_everything(0)
    with torch.device(device):
        return StyleEncoder("psp").eval().requires_grad_(False)


def make_faces(folder: Path, num_faces: int) -> FaceDataset:
    """JPEG files similar to photographs: smooth, with some noise."""
    rng = np.random.default_rng(0)
    (folder / "train" / "face").mkdir(parents=True)
    names = tuple(f"train/face/{i:05d}.jpg" for i in range(num_faces))
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((IMG_SIZE, IMG_SIZE)))
        noisy = np.clip(smooth + rng.normal(0, 8, (IMG_SIZE, IMG_SIZE, 3)), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / name, quality=90)
    return FaceDataset(("face",), np.zeros(num_faces, np.int64), names, folder)


@torch.inference_mode()
def encode_plainly(
    encoder: nn.Module, faces: FaceDataset, folder: Path, device: torch.device
) -> None:
    """One image after the other, in small float32 batches, one .pt file per code."""
    size = (IMG_SIZE, IMG_SIZE)
    for first in range(0, len(faces), PLAIN_BATCH):
        images = []
        for i in range(first, min(first + PLAIN_BATCH, len(faces))):
            face = faces[i][0].convert("RGB").resize(size, Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(face)).permute(2, 0, 1).contiguous()
            images.append(pixels.float() / 127.5 - 1)
        codes = encoder(torch.stack(images).to(device)).cpu()
        for i, latent in enumerate(codes, first):
            content = {"latent": latent.clone(), "label": 0, "img_path": faces.paths[i]}
            torch.save(content, folder / f"{i:06d}.pt")


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def best_seconds(
    ways: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Best seconds per way. The ways alternate, so that other load on the machine affects all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            seconds[name].append(measure_seconds(work, device))
    return {name: min(times) for name, times in seconds.items()}


@torch.inference_mode()
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(measure_seconds(lambda: a @ b, device) for _ in range(10))


@torch.inference_mode()
def flops_per_face() -> float:
    with torch.device("meta"):
        encoder = StyleEncoder("psp").eval()
        with FlopCounterMode(display=False) as counter:
            encoder(torch.empty(1, 3, IMG_SIZE, IMG_SIZE))
    return counter.get_total_flops()


@torch.inference_mode()
def time_network(arguments: argparse.Namespace, device: torch.device) -> None:
    """The network alone, on images that are on the device."""
    rate = matmul_rate(device, torch.bfloat16)
    limit = flops_per_face() / rate
    print(f"network: {flops_per_face() / 1e9:.0f} GFLOP per face")
    print(f"bf16 matrix product: {rate / 1e12:.2f} TFLOP/s")
    print(f"  limit: {limit * 1e3:.2f} ms per face", flush=True)
    settings: dict[str, dict] = {"bf16, channels last": {"dtype": "bfloat16"}}
    if arguments.compile:
        settings["bf16, channels last, compiled"] = {"dtype": "bfloat16", "compile": True}
    plain = seconds_per_face(make_plain_encoder(device), PLAIN_BATCH, arguments.repeats, device)
    print(f"  plain (float32, contiguous), batch {PLAIN_BATCH}: {plain * 1e3:.2f} ms per face")
    for name, options in settings.items():
        encoder = make_encoder(device, **options)
        seconds = seconds_per_face(encoder, arguments.batch_size, arguments.repeats, device)
        print(
            f"  {name}, batch {arguments.batch_size}: {seconds * 1e3:.2f} ms per face, "
            f"{plain / seconds:.2f} times the plain way, {limit / seconds:.0%} of the limit",
            flush=True,
        )


def network_call(
    encoder: nn.Module, batch_size: int, device: torch.device
) -> Callable[[], torch.Tensor]:
    """A forward pass of images that are on the device, in the encoder's layout and precision."""
    size = encoder.img_size
    images = torch.randn(batch_size, 3, size, size, device=device)
    weight = next(encoder.parameters(), None)  # the autoencoder has none
    if weight is not None and weight.is_contiguous(memory_format=torch.channels_last):
        images = images.to(memory_format=torch.channels_last)
    return partial(encoder, images.to(encoder_dtype(encoder)))


def seconds_per_face(
    encoder: nn.Module, batch_size: int, repeats: int, device: torch.device
) -> float:
    run = network_call(encoder, batch_size, device)
    run()  # warm up
    return min(measure_seconds(run, device) for _ in range(1 + repeats)) / batch_size


def time_files(arguments: argparse.Namespace, device: torch.device) -> None:
    """From JPEG files to shards, or to the plain way's .pt files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faces = make_faces(folder, arguments.faces)
        plain = make_plain_encoder(device)
        ours = make_encoder(device, compile=arguments.compile)
        # On a CPU the plain way is too slow for all faces.
        few = faces.subset(slice(0, 4 * PLAIN_BATCH)) if device.type == "cpu" else faces
        runs = iter(range(1000))

        def our_way() -> None:
            target = folder / f"store{next(runs)}"  # in an old store, shards would be kept
            batch_size = arguments.batch_size
            encode_faces(
                ours, "random", faces, target, "train", device=device, batch_size=batch_size
            )

        our_way()  # warm up, and compile
        ways = {"plain": lambda: encode_plainly(plain, few, folder, device), "ours": our_way}
        seconds = best_seconds(ways, arguments.repeats, device)
    plain_rate = len(few) / seconds["plain"]
    our_rate = len(faces) / seconds["ours"]
    print(f"JPEG files to codes on disk, {len(faces)} faces, batch {arguments.batch_size}:")
    print(f"  plain way: {plain_rate:.2f} faces/s; ours: {our_rate:.2f} faces/s")
    print(f"  {our_rate / plain_rate:.2f} times the plain way; target: {TARGETS[device.type]}")


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
    parser.add_argument("--network-only", action="store_true", help="without files")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    device = runtime.get_device()
    is_gpu = device.type == "cuda"
    arguments.faces = arguments.faces or (16384 if is_gpu else 32)
    arguments.batch_size = arguments.batch_size or (256 if is_gpu else 16)
    torch.backends.cudnn.benchmark = True
    print(f"pSp's encoder, {runtime.describe_device(device)}, torch {torch.__version__}")
    time_network(arguments, device)
    if not arguments.network_only:
        time_files(arguments, device)


if __name__ == "__main__":
    main()
