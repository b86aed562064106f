"""Training throughput of a LatentViT: the Learner used here, a plain torch loop, a baseline.

    .venv/bin/python benchmarks/train.py [--batch-size 64] [--samples 1024]

The baseline loads one `.pt` file per sample by a DataLoader, computes in float32, and repeats the
forward pass of every training batch for its metrics. Throughput is that of the whole loop, loading
included: the best of `--repeats` epochs after one to warm up.

Measured in CPU seconds, in one run on a busy AMD machine limited to AVX2 by
`ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2`: one thread, float32, 64 samples, best of two
epochs after one to warm up. Plain torch has 1.38 times and the Learner 1.37 times the baseline's
throughput. Matrix products are 78 % of a training step, and without its second forward pass the
baseline has three quarters of them: 1.33 is what that alone can give. The masks of dropout are
another 8 %. `torch.compile` did not finish in the three minutes given to it.

What else was tried on that machine, batch 64, CPU seconds of a step against the way used here
(channels-last, deterministic, attention step by step), best of three:

                    face_cnn 48 px   ViT of fer2013_cpu   LatentViT
    ordinary memory           0.93                 0.92        0.97
    not deterministic         0.98                 1.01        1.00
    fused attention           0.95                 1.06        1.05
    4 micro-batches           0.93                 1.04           –

Differences of 5 % are noise: face_cnn has no attention. 80 % of its step are convolutions (the
backward pass alone 64 %), of the ViT's 42 %, in its stem, and 31 % matrix products.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from fervit_lib import models, training
from fervit_lib.latents import complete_store, shard_path, write_shard
from fervit_lib.system import runtime


class PtFiles(Dataset):
    """One file per sample."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.pt"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        content = torch.load(self.files[index], weights_only=True)
        return content["latent"], content["label"]


def make_data(folder: Path, samples: int) -> Path:
    codes, labels = torch.randn(samples, 18, 512), np.arange(samples) % 7
    for split, n in (("train", samples), ("val", 64)):
        for first in range(0, n, 1024):
            part = slice(first, min(first + 1024, n))
            names = [f"{split}/{i}" for i in range(part.start, part.stop)]
            write_shard(
                shard_path(folder / "codes", split, first // 1024),
                codes[part],
                labels[part],
                names,
                "encoding",
            )
    made_from = {"classes": "abcdefg", "encoder": "random", "faces": folder, "synthetic": True}
    complete_store(folder / "codes", {"train": samples, "val": 64}, **made_from)
    (folder / "pt").mkdir()
    for i in range(samples):
        torch.save(
            {"latent": codes[i].clone(), "label": int(labels[i])}, folder / "pt" / f"{i:06d}.pt"
        )
    return folder / "codes"


def baseline_epoch(folder: Path, batch_size: int, device: torch.device) -> Callable[[], None]:
    model = models.create_model("scratch").to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loader = DataLoader(PtFiles(folder / "pt"), batch_size, shuffle=True, drop_last=True)

    def epoch() -> None:
        model.train()
        for codes, labels in loader:
            codes, labels = codes.to(device), labels.to(device)
            optimiser.zero_grad()
            F.cross_entropy(model(codes), labels).backward()
            optimiser.step()
            with torch.no_grad():
                (model(codes).argmax(-1) == labels).float().mean().item()

    return epoch


def plain_torch_epoch(codes: Path, batch_size: int, device: torch.device) -> Callable[[], None]:
    """The batches, precision, attention and optimiser of `learner_epoch`, without fastai."""
    model = models.create_model("scratch").to(device)
    models.set_fused_attention(model, device.type != "cpu")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    loader = training.face_dls(model, codes, batch_size=batch_size, device=device).train

    def epoch() -> None:
        model.train()
        for inputs, labels in loader:
            with torch.autocast(device.type, torch.bfloat16, enabled=runtime.has_fast_bf16(device)):
                logits = model(inputs)
                loss = F.cross_entropy(logits.float(), labels)
            loss.item()  # any loop logs its loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

    return epoch


def learner_epoch(
    codes: Path, folder: Path, batch_size: int, device: torch.device
) -> Callable[[], None]:
    model = models.create_model("scratch")
    dls = training.face_dls(model, codes, batch_size=batch_size, device=device)
    model.to(device)
    learn = training.build_learner(model, dls, training.get_strategy("full"), folder=folder)
    dls.valid.n = 1  # training alone is measured
    learn.create_opt()

    def epoch() -> None:
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 1e-4)

    return epoch


def samples_per_second(
    epoch: Callable[[], None], samples: int, repeats: int, device: torch.device
) -> float:
    seconds = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        epoch()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return samples / min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = runtime.get_device()
    runtime.seed_everything(0)
    samples = arguments.samples // arguments.batch_size * arguments.batch_size
    print(f"LatentViT depth 6, {samples} codes, batch size {arguments.batch_size}")
    print(runtime.describe_device(device))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codes = make_data(folder, samples)
        loops = {
            "baseline": baseline_epoch(folder, arguments.batch_size, device),
            "plain torch": plain_torch_epoch(codes, arguments.batch_size, device),
            "learner": learner_epoch(codes, folder / "run", arguments.batch_size, device),
        }
        speed = {
            name: samples_per_second(epoch, samples, arguments.repeats, device)
            for name, epoch in loops.items()
        }
    for name, value in speed.items():
        print(f"{name:>14}: {value:9.0f} samples/s, {value / speed['baseline']:5.2f} x baseline")
    overhead = speed["plain torch"] / speed["learner"] - 1
    print(f"overhead of fastai's loop over plain torch: {overhead:+.1%}")


if __name__ == "__main__":
    main()
