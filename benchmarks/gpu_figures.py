"""All figures of a GPU by one command: encode, train, distil, latency, beside the card's limits.

    make gpu-figures

Weights and inputs are random, since speed does not depend on them, so it needs no data and no
network. `reports/gpu/figures.json` and `index.html` are written after each figure. A call takes a
few minutes and at most 20; the next one measures what is missing, and nothing if nothing is: delete
`reports/gpu` to measure again. Without a GPU, tiny models are measured on the CPU, to try the
command.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gpu_measurements as gpu
import torch
from card import Card, measure_card
from gpu_page import write_gpu_page

from fervit_lib import encoders, models
from fervit_lib.encoders.style_encoder import StyleEncoder
from fervit_lib.runs import start_run
from fervit_lib.system import runtime
from fervit_lib.system.atomic import read_json, write_json

SECONDS = 19 * 60  # of all figures; Python and the models are loaded in the last minute
SECONDS_PER_FIGURE = 120


@dataclass(frozen=True)
class Item:
    """A figure to measure."""

    group: str  # encode, train, distil or latency
    name: str
    unit: str  # of a rate, such as faces/s; or ms
    batch_size: int
    measure: Callable[[int], gpu.Measured]  # takes a batch size

    @property
    def key(self) -> tuple[str, ...]:
        # The batch of a rate becomes smaller if it does not fit into memory.
        batch = (str(self.batch_size),) if self.unit == "ms" else ()
        return (self.group, self.name, *batch)


def all_items(sizes: gpu.Sizes, device: torch.device) -> Iterator[Item]:
    psp = partial(StyleEncoder, "psp", stages=sizes.stages)
    latent_vit = partial(models.create_model, "scratch", **sizes.latent_vit)
    hybrid = {"model_name": sizes.hybrid, "pretrained": "random", "adapter_dim": 64}
    hybrid_vit = partial(models.create_model, "hybrid", **hybrid)
    image = {"model_name": sizes.image_vit, "pretrained": "none"}
    image_vit = partial(models.create_model, "image", **image)

    def encode_item(name: str, batch: int, build: gpu.Build, **options: Any) -> Item:
        measure = partial(gpu.measure_encoder, build, device, **options)
        return Item("encode", name, "faces/s", batch, measure)

    yield encode_item("pSp or e4e, network", sizes.encode_batch, psp)
    if sizes.compile:
        yield encode_item("pSp or e4e, compiled network", sizes.encode_batch, psp, compile=True)
    files = partial(gpu.measure_files, sizes, device)
    yield Item("encode", "pSp or e4e, JPEG files to codes", "faces/s", sizes.encode_batch, files)
    yield encode_item("autoencoder, network", sizes.autoencoder_batch, encoders.Autoencoder)

    def train_item(name: str, build: gpu.Build, strategy: str, **options: Any) -> Item:
        measure = partial(gpu.measure_training, build, strategy, sizes, device, **options)
        return Item("train", name, "faces/s", sizes.train_batch, measure)

    yield train_item("LatentViT, full", latent_vit, "full")
    if sizes.compile:
        yield train_item("LatentViT, full, compiled", latent_vit, "full", compile=True)
    yield train_item(f"hybrid on {sizes.hybrid}, adapter", hybrid_vit, "adapter")
    yield train_item(f"image, {sizes.image_vit}, full", image_vit, "full")

    for name, measure in (
        (f"teacher, U-Net of {sizes.teacher}", gpu.measure_teacher),
        (f"student, U-Net of {sizes.student}, cached teacher", gpu.measure_student),
        ("student and teacher", gpu.measure_both),
    ):
        bound = partial(measure, sizes, device)
        yield Item("distil", name, "images/s", sizes.people_batch, bound)

    for name, build in (("LatentViT", latent_vit), (f"image, {sizes.image_vit}", image_vit)):
        for batch in sizes.latency_batches:
            for runtime_name, measure in (
                ("torch", gpu.measure_torch),
                ("ONNX Runtime", gpu.measure_onnx),
            ):
                bound = partial(measure, build, device)
                yield Item("latency", f"{name}, {runtime_name}", "ms", batch, bound)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not measured within {seconds:.0f} s")

    if seconds <= 0:
        raise TimeoutError("no time was left; the next call measures it")
    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def measure_fitting(item: Item) -> gpu.Measured:
    """Measure a rate with the largest batch that fits into memory, a latency with its own."""
    batch = item.batch_size
    while True:
        try:
            return item.measure(batch)
        except (torch.OutOfMemoryError, ValueError) as error:
            # `training.fit` makes a ValueError of it.
            out_of_memory = isinstance(error, torch.OutOfMemoryError) or isinstance(
                error.__cause__, torch.OutOfMemoryError
            )
            if not out_of_memory or batch == 1 or item.unit == "ms":
                raise
        torch.cuda.empty_cache()
        batch //= 2


def to_row(item: Item, measured: gpu.Measured, card: Card) -> dict[str, Any]:
    """A figure for `figures.json`: its value, and the card's limit in the same unit."""
    compute, memory = measured.cost.least_seconds(card, measured.precision)
    is_latency = item.unit == "ms"
    samples = measured.batch_size if is_latency else 1

    def in_unit(seconds: float) -> float:
        return 1000 * seconds if is_latency else 1 / seconds

    return {
        "group": item.group,
        "name": item.name,
        "batch_size": measured.batch_size,
        "precision": measured.precision,
        "unit": item.unit,
        "value": in_unit(measured.seconds),
        "p95": in_unit(measured.p95_seconds) if measured.p95_seconds else None,
        "limit": in_unit(max(compute, memory)),
        "limited_by": "compute" if compute >= memory else "memory",
        "of_peak": compute / measured.seconds,
        "of_bandwidth": memory / measured.seconds,
        "gflop": measured.cost.flops / samples / 1e9,  # per face or image
        "megabytes": measured.cost.bytes / samples / 1e6,  # per face or image
    }


def describe_call(device: torch.device, sizes: gpu.Sizes) -> dict[str, Any]:
    """Device, versions, revision, time and sizes, as every run of a notebook records them."""
    with tempfile.TemporaryDirectory() as name:
        description = runtime.describe_device(device)
        own = {"parameters": asdict(sizes), "seed": 0, "device": description}
        return start_run(Path(name), "gpu", "figures", "card", **own).config


def open_content(path: Path, config: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The content of `figures.json`: of an earlier call if it was the same, else a new one."""
    try:
        content = read_json(path)
    except (FileNotFoundError, ValueError):
        content = {"config": {}}
    if {**content["config"], "started": ""} == {**config, "started": ""}:
        return content
    card = asdict(measure_card(device))
    return {"config": config, "is_gpu": device.type == "cuda", "card": card, "figures": {}}


def measure_all(folder: Path, sizes: gpu.Sizes, device: torch.device) -> dict[str, str]:
    """Measure what is missing, and write files after each figure.

    Returns:
        Why figures are missing, by their names.
    """
    end = time.monotonic() + SECONDS
    content = open_content(folder / "figures.json", describe_call(device, sizes), device)
    card = Card(**content["card"])
    figures = content["figures"]
    content["missing"] = missing = {}
    for item in all_items(sizes, device):
        name = ", ".join(item.key)
        if name in figures:
            continue
        runtime.seed_everything(0)
        try:
            with time_limit(min(SECONDS_PER_FIGURE, end - time.monotonic())):
                figures[name] = to_row(item, measure_fitting(item), card)
        except Exception as error:  # one figure that fails must not cost the others
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            print(f"{name}: {missing[name]}", file=sys.stderr, flush=True)
        else:
            print(describe_row(figures[name]), flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        write_files(folder, content)
    write_files(folder, content)
    return missing


def write_files(folder: Path, content: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "figures.json", content)
    write_gpu_page(folder / "index.html", content)


def describe_row(row: Mapping[str, Any]) -> str:
    share = max(row["of_peak"], row["of_bandwidth"])
    return (
        f"{row['group']:>8}  {row['name']}, batch {row['batch_size']}, {row['precision']}: "
        f"{row['value']:,.4g} {row['unit']}, {share:.0%} of the limit by {row['limited_by']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=runtime.PROJECT_ROOT / "reports" / "gpu")
    arguments = parser.parse_args()
    device = runtime.get_device()
    print(runtime.describe_device(device), flush=True)
    sizes = gpu.Sizes() if device.type == "cuda" else gpu.TINY
    missing = measure_all(arguments.folder, sizes, device)
    print(f"Report: {runtime.display_path(arguments.folder / 'index.html')}")
    sys.exit(f"{len(missing)} figures are missing, see the report" if missing else 0)


if __name__ == "__main__":
    main()
