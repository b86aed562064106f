"""Time and memory by number of faces, measured in one run on this machine.

    .venv/bin/python benchmarks/scale.py [--part memory|processes|growth|paper ...]

memory     anonymous memory of encoding, image training and evaluation of 10,000, 100,000 and
           300,000 files of 112x112 pixels; the rate of training from disk over that from memory
processes  throughput of two processes that encode disjoint shards, over that of one
growth     time and memory of audit, encode, train, evaluate and explore by number of faces
paper      time and storage for 36 thousand, a million and a hundred million faces, extrapolated

Every figure of memory and growth is measured in a new process, and includes its libraries. Seconds
are CPU time, except for two processes and a GPU (wall time). A power of 1 is linear growth. Memory
needs 15 GB of disk for 300,000 faces; `--faces` takes fewer, `--folder` another disk.
"""

import argparse
import io
import itertools
import math
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fervit_lib import evaluation, explain, models, runs, training
from fervit_lib.datasets import FaceDataset, audit_faces, load_splits
from fervit_lib.encoders import encode_faces, prepare_encoder
from fervit_lib.encoders.autoencoder import Autoencoder
from fervit_lib.encoders.style_encoder import StyleEncoder
from fervit_lib.inputs import map_pixels
from fervit_lib.latents import (
    LATENT_DIM,
    NUM_LAYERS,
    SHARD_SIZE,
    LatentStore,
    complete_store,
    shard_path,
    write_shard,
)
from fervit_lib.system import runtime
from fervit_lib.training import data

CPU = torch.device("cpu")
CLASSES = ("angry", "happy", "sad")
FACES = (10_000, 100_000, 300_000)
FLAT = 0.05  # how much more memory the most faces may take than the fewest
SIDE = 112
BATCHES, BATCH = 40, 64  # of the training whose rate is measured
PICTURES = 64  # distinct ones; the bytes of all files differ
TIMES = (1, 4, 16)
PARTS = ("memory", "processes", "growth", "paper")


class DrawnFaces(FaceDataset):
    """Faces without files: each is drawn from its name when it is read."""

    side = 16

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        noise = np.random.default_rng(int(self.paths[index][-11:-4])).integers(
            0, 256, (4, 4, 3), np.uint8
        )
        return Image.fromarray(noise).resize(
            (self.side, self.side), Image.Resampling.BILINEAR
        ), int(self.labels[index])


class LargeFaces(DrawnFaces):
    side = 48


def drawn(n: int, kind: type[FaceDataset] = DrawnFaces) -> FaceDataset:
    names = tuple(f"train/happy/{i:07d}.png" for i in range(n))
    return kind(CLASSES, np.arange(n) % len(CLASSES), names, Path("drawn"))


def bytes_to_list(faces: FaceDataset) -> float:
    """Memory per face before it is read: its name, its place in the tuple, and its label."""
    return (
        sum(map(sys.getsizeof, faces.paths)) + sys.getsizeof(faces.paths) + faces.labels.nbytes
    ) / len(faces)


class ShortCodes(nn.Module):
    """An encoder that computes almost nothing, with short codes: a million fit on any disk."""

    img_size = DrawnFaces.side

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(1)[:, :2]  # (B, 2, 16)


@dataclass(frozen=True)
class Cost:
    """What a function used in a new process."""

    seconds: float  # CPU time
    peak: float  # MB, peak memory of the process
    added: float  # MB, peak memory above that at its start


def measure(costs: SimpleQueue, work: Callable[..., object], arguments: Sequence[object]) -> None:
    torch.set_num_threads(1)
    runtime.reset_peak_memory(CPU)
    before, started = 1000 * runtime.host_peak_memory(), time.process_time()
    work(*arguments)
    seconds, peak = time.process_time() - started, 1000 * runtime.host_peak_memory()
    costs.put(Cost(seconds, peak, peak - before))


def cost_of(work: Callable[..., object], *arguments: object) -> Cost:
    context = multiprocessing.get_context("spawn")  # a forked process shares its parent's memory
    costs = context.SimpleQueue()
    process = context.Process(target=measure, args=(costs, work, arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed, see above")
    return costs.get()


def anonymous_memory() -> float:
    """MB of this process that no file backs: what memory maps read does not count."""
    [kilobytes] = re.findall(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1000


def measure_anonymous(peaks: SimpleQueue, work: Callable[..., float], *arguments: object) -> None:
    torch.set_num_threads(1)
    ended = threading.Event()
    samples = [anonymous_memory()]

    def watch() -> None:
        while not ended.wait(0.02):
            samples.append(anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        rate = work(*arguments)
    finally:
        ended.set()
        watcher.join()
    peaks.put((max(samples), rate))


def anonymous_of(work: Callable[..., float], *arguments: object) -> tuple[float, float]:
    """The peak of the anonymous memory of a new process, in MB, and what `work` returns."""
    context = multiprocessing.get_context("spawn")
    peaks = context.SimpleQueue()
    process = context.Process(target=measure_anonymous, args=(peaks, work, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed, see above")
    return peaks.get()


def write_files(n: int, folder: Path) -> float:
    """Nine tenths of `n` faces to train, a twentieth each for val and test."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(PICTURES):
        noise = Image.fromarray(rng.integers(0, 256, (7, 7), np.uint8))
        file = io.BytesIO()
        noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=75)
        pictures.append(file.getvalue())
    for split, share in (("train", 18), ("val", 1), ("test", 1)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
        for i in range(n * share // 20):
            path = folder / split / CLASSES[i % len(CLASSES)] / f"{i:07d}.jpg"
            # Decoders stop at the end of the picture: the bytes after it are not seen.
            path.write_bytes(pictures[i % PICTURES] + f"{split}{i}".encode())
    return 0.0


def encode_files(n: int, folder: Path) -> float:
    started = time.perf_counter()
    sets = load_splits(folder / "faces")
    for split, faces in sets.items():
        encode_faces(ShortCodes(), "stand-in", faces, folder / "codes", split, device=CPU)
    complete_store(
        folder / "codes",
        {split: len(faces) for split, faces in sets.items()},
        classes=CLASSES,
        encoder="stand-in",
        faces=folder / "faces",
        synthetic=True,
    )
    return n / (time.perf_counter() - started)


def map_files(n: int, folder: Path) -> float:
    """Write the pixels of all splits, as the first training on them does."""
    started = time.perf_counter()
    for split in ("train", "val", "test"):
        map_pixels(LatentStore.open(folder / "codes", split), SIDE, "squish")
    return n / (time.perf_counter() - started)


def train_images(n: int, folder: Path, in_memory: bool) -> float:
    """Faces per second of `BATCHES` steps after as many that are not counted."""
    data.RESIDENT_BYTES = 1e12 if in_memory else 0.0
    torch.manual_seed(0)
    model = models.create_model(
        "image", len(CLASSES), model_name="test_vit", pretrained="none", image_size=SIDE
    )
    dls = training.face_dls(model, folder / "codes", batch_size=BATCH, device=CPU)
    optimiser = torch.optim.AdamW(model.parameters())
    batches = itertools.chain.from_iterable(itertools.repeat(dls.train))
    for step, (images, labels) in zip(range(2 * BATCHES), batches, strict=False):
        if step == BATCHES:
            started = time.process_time()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    seconds = time.process_time() - started
    save_run(folder, model)
    return BATCHES * BATCH / seconds


def evaluate_images(n: int, folder: Path) -> float:
    run = runs.Run(folder / "reports", "scale", "train", "image-full-seed0")
    started = time.perf_counter()
    evaluation.evaluate_run(run, evaluation.Faces(folder / "codes"), run.folder, CPU)
    return n // 10 / (time.perf_counter() - started)


def measure_memory(folder: Path, sizes: Sequence[int]) -> None:
    print(f"memory: peak anonymous memory by number of faces of {SIDE}x{SIDE}, in new processes")
    peaks: dict[str, list[float]] = {}
    rates = {}
    for n in sizes:
        place = folder / str(n)
        write_files(n, place / "faces")
        steps = {"encode": encode_files, "map pixels": map_files}
        for name, work in steps.items():
            peak, rate = anonymous_of(work, n, place)
            peaks.setdefault(name, []).append(peak)
            print(f"  {n:9,} {name}: {peak:.0f} MB, {rate:,.0f} faces/s")
        if n == min(sizes):
            peak, rates["memory"] = anonymous_of(train_images, n, place, True)
            print(f"  {n:9,} train in memory: {peak:.0f} MB, {rates['memory']:,.0f} faces/s")
        peak, rates[n] = anonymous_of(train_images, n, place, False)
        peaks.setdefault("train", []).append(peak)
        share = rates[n] / rates["memory"]
        print(f"  {n:9,} train: {peak:.0f} MB, {rates[n]:,.0f} faces/s, {share:.0%} of in memory")
        peak, rate = anonymous_of(evaluate_images, n, place)
        peaks.setdefault("evaluate", []).append(peak)
        print(f"  {n:9,} evaluate: {peak:.0f} MB, {rate:,.0f} faces/s")
        shutil.rmtree(place)
    for name, values in peaks.items():
        growth = values[-1] / values[0] - 1
        print(f"  {name}: {max(sizes):,} over {min(sizes):,}: {growth:+.1%}, at most {FLAT:.0%}")


def encode_share(folder: Path) -> None:
    encoder = prepare_encoder(Autoencoder(64), CPU)
    faces = drawn(8 * SHARD_SIZE, LargeFaces)
    encode_faces(encoder, "stand-in", faces, folder, "train", device=CPU, num_workers=1)


def faces_per_second(processes: int, folder: Path) -> float:
    """Of all processes together, by wall time, each process on its own core."""
    context, cores = multiprocessing.get_context("fork"), sorted(os.sched_getaffinity(0))

    def child(number: int) -> None:
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        encode_share(folder)

    workers = [context.Process(target=child, args=(number,)) for number in range(processes)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("encoding failed, see above")
    return 8 * SHARD_SIZE / (time.perf_counter() - started)


def measure_processes(folder: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    print(f"processes: faces/s, encoded by an autoencoder, {cores} cores available")
    one, two = (faces_per_second(number, folder / f"by{number}") for number in (1, 2))
    print(f"  one: {one:.0f}; two: {two:.0f}; ratio {two / one:.2f}, expected with two cores: 1.8")


def make_store(folder: Path, sizes: dict[str, int]) -> None:
    for split, n in sizes.items():
        for index, start in enumerate(range(0, n, SHARD_SIZE)):
            labels = np.arange(start, min(start + SHARD_SIZE, n)) % len(CLASSES)
            names = [f"{split}/{i:07d}.png" for i in range(start, start + len(labels))]
            codes = (
                torch.randn(len(labels), NUM_LAYERS, LATENT_DIM)
                + torch.from_numpy(labels)[:, None, None]
            )
            write_shard(shard_path(folder, split, index), codes, labels, names, "random")
    complete_store(folder, sizes, classes=CLASSES, encoder="random", faces=folder, synthetic=True)


OPTIONS = {"embed_dim": 64, "depth": 2, "num_heads": 4}


def save_run(folder: Path, model: nn.Module) -> None:
    """A model, saved as a training run on the codes in `folder`."""
    described = {"parameters": {"latents": str(folder / "codes")}, "seed": 0, "device": "cpu"}
    approach = "image" if model.reads == "pixels" else "scratch"
    run = runs.start_run(
        folder / "reports", "scale", "train", f"{approach}-full-seed0", **described
    )
    models.save_model(run.best_checkpoint, model, classes=CLASSES)
    figures = {"approach": approach, "strategy": "full", "seed": 0, "val_macro_f1": 0.0}
    figures |= {"train_faces": 1, "total_parameters": 1, "trainable_parameters": 1}
    run.write_result(**figures, train_seconds=1.0, peak_memory_gb=1.0)


def prepare(n: int, folder: Path) -> None:
    """The codes and the run that the measured functions read."""
    make_store(folder / str(n) / "codes", {"train": n, "val": n // 8, "test": n})
    save_run(folder / str(n), models.create_model("scratch", len(CLASSES), **OPTIONS))


def audit(n: int, folder: Path) -> None:
    audit_faces({"train": drawn(n, LargeFaces)})


def encode(n: int, folder: Path) -> None:
    encoder = prepare_encoder(Autoencoder(32), CPU)
    encode_faces(
        encoder,
        "stand-in",
        drawn(n, LargeFaces),
        folder / f"codes{n}",
        "train",
        device=CPU,
        num_workers=1,
    )


def train(n: int, folder: Path) -> None:
    model = models.create_model("scratch", len(CLASSES), **OPTIONS)
    plan = training.get_strategy("full")
    dls = training.face_dls(model, folder / str(n) / "codes", batch_size=64, device=CPU)
    learn = training.build_learner(model, dls, plan, folder=folder / f"fit{n}")
    training.fit(learn, plan, epochs=2, state=folder / f"fit{n}" / "last.safetensors")


def evaluate(n: int, folder: Path) -> None:
    run = runs.Run(folder / str(n) / "reports", "scale", "train", "scratch-full-seed0")
    evaluation.evaluate_run(run, evaluation.Faces(folder / str(n) / "codes"), run.folder, CPU)


def explore(n: int, folder: Path) -> None:
    run = runs.Run(folder / str(n) / "reports", "scale", "train", "scratch-full-seed0")
    subject = explain.load_examined_run(run, n, 0, CPU)
    explain.summarise_attention(
        subject.model, subject.codes, torch.from_numpy(subject.labels), len(CLASSES)
    )
    explain.leave_one_out(subject.predict, subject.codes, subject.labels, subject.mean_code)
    explain.head_statistics(subject.model, subject.codes)
    explain.cka_matrix(subject.model, subject.model, subject.codes)


def power(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The exponent of growth between the two largest sizes, where constant costs matter least."""
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def measure_growth(folder: Path, base: int = 512) -> None:
    sizes = [base * times for times in TIMES]
    print(f"growth: {', '.join(f'{n:,}' for n in sizes)} faces; powers between the two largest")
    for n in sizes:
        cost_of(prepare, n, folder)
    for work in (audit, encode, train, evaluate, explore):
        costs = [cost_of(work, n, folder) for n in sizes]
        seconds, added = [cost.seconds for cost in costs], [cost.added for cost in costs]
        times = ", ".join(f"{value:.2f}" for value in seconds)
        memory = ", ".join(f"{value:.0f}" for value in added)
        print(
            f"  {work.__name__:>8}: {times} s, power {power(sizes, seconds):.2f}; {memory} MB "
            f"above the start, power {power(sizes, added):.2f}"
        )


def rate_of(encoder: nn.Module, faces: FaceDataset, folder: Path, repeats: int = 3) -> float:
    """Faces per second, best of `repeats`: of a GPU by wall time, else of one core by CPU time."""
    device = runtime.get_device()
    now = time.perf_counter if device.type == "cuda" else time.process_time
    seconds = []
    for repeat in range(1 + repeats):
        some = faces if repeat else faces.subset(slice(0, 16))  # the first time warms up
        started = now()
        store = folder / str(repeat)
        encode_faces(
            encoder, "random", some, store, "train", device=device, batch_size=16, num_workers=1
        )
        seconds.append(now() - started)
    return len(faces) / min(seconds[1:])


def format_duration(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:,.0f} days"


def print_paper(folder: Path) -> None:
    """Time at the throughput of this machine, and storage."""
    device = runtime.get_device()
    autoencoder = prepare_encoder(Autoencoder(64), device)
    with torch.device(device):
        psp = prepare_encoder(StyleEncoder("psp").requires_grad_(False), device)
    few, many = (drawn(n, LargeFaces) for n in (4096 if device.type == "cuda" else 32, 4096))
    rates = {
        "autoencoder": rate_of(autoencoder, many, folder / "autoencoder"),
        "psp": rate_of(psp, few, folder / "psp"),
    }
    throughput = ", ".join(f"{name} {value:.1f}" for name, value in rates.items())
    print(f"paper: faces/s on {runtime.describe_device(device)}: {throughput}")
    names = "   ".join(rates)
    print(f"        faces   codes on disk   shards   names in memory   {names}   psp on 64 devices")
    size, listed = NUM_LAYERS * LATENT_DIM * 2, bytes_to_list(drawn(1000))
    for n in (36_000, 1_000_000, 100_000_000):
        times = "   ".join(
            format_duration(n / rate / 3600) for rate in (*rates.values(), 64 * rates["psp"])
        )
        shards = -(-n // SHARD_SIZE)
        stored, memory = n * size / 1e9, n * listed / 1e6
        print(f"  {n:11,}   {stored:,.1f} GB   {shards:,}   {memory:,.0f} MB   {times}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="default: all")
    parser.add_argument("--faces", type=int, nargs="+", default=FACES, help="sizes for memory")
    parser.add_argument("--folder", type=Path, help="for temporary files; default: the system's")
    arguments = parser.parse_args()
    # A process that has computed with several threads cannot be forked.
    torch.set_num_threads(1)
    work = {
        "memory": partial(measure_memory, sizes=arguments.faces),
        "processes": measure_processes,
        "growth": measure_growth,
        "paper": print_paper,
    }
    # In this order: the last part may initialise a GPU, after which a process cannot be forked.
    for part in sorted(arguments.part, key=PARTS.index):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            work[part](Path(name))


if __name__ == "__main__":
    main()
