"""Rehearse an experiment: every step of its config, on a few faces and with random weights.

    make rehearse [CONFIG=configs/fer2013_psp.yaml] [FACES=200]

What would fail after hours on all faces fails here after minutes, and neither the published
weights nor the faces have to be there. All models have the full size; there is one seed, one view
of each face and one epoch, or two where a strategy needs them. Faces are those of the config, or
toy faces if they are missing. Everything is written to `reports/rehearsal`; codes and weights are
removed at the end. A step `distill` is left out.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import timm
import torch
import yaml
from safetensors.torch import save_file

from fervit_lib.datasets import Protocol, load_splits
from fervit_lib.encoders.generator import Generator
from fervit_lib.encoders.published import ENCODER_TYPES
from fervit_lib.encoders.style_encoder import STYLE_KINDS, StyleEncoder
from fervit_lib.pipeline import NOTEBOOKS, read_config, read_parameters
from fervit_lib.system.atomic import read_json
from fervit_lib.system.locks import hold_lock
from fervit_lib.system.names import PROJECT_ROOT, check_range
from fervit_lib.system.runtime import describe_device, get_device, resolve, seed_everything
from fervit_lib.system.yaml_files import read_yaml

QUESTION = (
    "A rehearsal: the weights of the encoder and of pretrained models are random, the faces few. "
    "It shows that every step runs. No figure here says anything about faces."
)
LINKS = ("Snakefile", "notebooks", "profiles", "configs")
LEAST_FACES = 28  # four of each of seven classes fill every split of toy faces
FER2013 = {"train": 28709, "val": 3589, "test": 3589}
LINE = re.compile(r"(\S+) +(?:done|failed) +(\d+):(\d\d):(\d\d), ")


def few(value: Any, largest: int) -> Any:
    """A number of at most `largest`; of a list, as many different ones, as they name variants."""
    if isinstance(value, list):
        return [largest + i for i in range(len(value))]
    return min(value, largest)


def shorten(config: Mapping[str, Any], faces: int) -> dict[str, Any]:
    """The config of the rehearsal: the same variants, with one seed and little work."""

    def blocks(step: str, default: Any) -> list[dict[str, Any]]:
        given = config.get(step, default)
        return given if isinstance(given, list) else [given or {}]

    name = f"rehearsal-{config['experiment']}"
    short: dict[str, Any] = {"experiment": name, "question": QUESTION}
    short["encode"] = [shorten_encoding(block, faces) for block in blocks("encode", {})]
    short["train"] = [shorten_training(block, faces) for block in blocks("train", {})]
    short["tour"] = blocks("tour", [])
    short["evaluate"] = [block | {"robust_faces": 7} for block in blocks("evaluate", {})]
    few_faces = {"num_faces": 20, "shots": 2, "repeats": 1}
    short["explain"] = [block | few_faces for block in blocks("explain", {})]
    text = yaml.safe_dump(short, sort_keys=False)
    # Teachers and computed encoders are runs of the same experiment.
    return yaml.safe_load(text.replace(f"reports/{config['experiment']}/", f"reports/{name}/"))


def shorten_encoding(block: Mapping[str, Any], faces: int) -> dict[str, Any]:
    short = dict(block) | {"num_views": few(block.get("num_views", 1), 1), "batch_size": 8}
    short |= {"fraction": 1.0, "checkpoint": ""}
    source = resolve(block.get("faces", "toy"))
    if block.get("faces", "toy") == "toy" or not source.exists():
        return short | {"faces": "toy", "toy_faces": faces}
    return short | {"faces": str(source), "smoke": max(1, faces // 21)}  # per class and split


def shorten_training(block: Mapping[str, Any], faces: int) -> dict[str, Any]:
    strategies = block.get("strategy", "full")
    epochs = 2 if "gradual" in strategies else 1
    most = {"epochs": epochs, "mae_epochs": 1, "batch_size": max(1, min(16, faces // 4))}
    short = dict(block) | {name: few(block.get(name, n), n) for name, n in most.items()}
    short |= {"epoch_faces": 0}
    for name in ("seed", "data_seed"):
        if isinstance(block.get(name), list):
            short[name] = block[name][:1]
    return short


def write_style_checkpoint(path: Path, kind: str) -> None:
    """A file of the published layout, with random weights of the published size (1.2 GB)."""
    generator = Generator()
    for layer in generator.style[1:]:
        layer.weight.data *= 100  # the learning rate of the mapping is a hundredth of the others'
    with torch.inference_mode():
        average = generator.style(torch.randn(1024, 512)).mean(0)
    parts = {"encoder": StyleEncoder(kind), "decoder": generator}
    state = {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    types = {kind: name for name, kind in ENCODER_TYPES.items()}
    options = {"encoder_type": types[kind], "start_from_latent_avg": True, "output_size": 1024}
    content = {"state_dict": state, "latent_avg": average.repeat(18, 1), "opts": options}
    torch.save(content, path)


def write_weights(plan: Mapping[str, Mapping[str, dict[str, Any]]], folder: Path) -> None:
    """The files that the steps of a plan read from `pretrained_models`, with random weights.

    Other files are links to those of the project.
    """
    folder.mkdir()
    seed_everything(0)
    for kind in {block.get("encoder") for block in plan["encode"].values()} & set(STYLE_KINDS):
        write_style_checkpoint(folder / f"{kind}_ffhq_encode.pt", kind)
    default = read_parameters(PROJECT_ROOT / NOTEBOOKS["train"])["model_name"].default
    trainings = plan["train"].values()
    pretrained = [block for block in trainings if block.get("pretrained") == "imagenet"]
    for name in {block.get("model_name", default) for block in pretrained}:
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    for file in sorted(folder.iterdir()):
        print(f"random weights: {file.name}, {file.stat().st_size / 1e9:.2f} GB")
    for file in (PROJECT_ROOT / "pretrained_models").glob("*"):
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """A workspace as of `make workspace`, with weights of its own; `reports` leads to `folder`."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)  # left by a rehearsal that was killed
    work.mkdir()
    try:
        for name in LINKS:
            (work / name).symlink_to(PROJECT_ROOT / name)
        (work / "reports").symlink_to(folder)
        yield work
    finally:
        shutil.rmtree(work)


class MemoryWatch(threading.Thread):
    """Samples the memory of a process and its descendants, shared pages counted once."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(process)
        self.samples: list[tuple[float, float]] = []  # (time, GB)

    def run(self) -> None:
        with suppress(psutil.Error):
            while self.process.is_running():
                total = sum(map(_memory, [self.process, *self.process.children(recursive=True)]))
                self.samples.append((time.monotonic(), total / 1e9))
                time.sleep(0.5)

    def peak(self, start: float, end: float) -> float:
        """Peak in GB between two times."""
        return max((gb for at, gb in self.samples if start - 1 <= at <= end), default=0.0)


def _memory(process: psutil.Process) -> int:
    with suppress(psutil.Error):  # it has ended
        memory = process.memory_full_info()
        return getattr(memory, "pss", memory.uss)
    return 0


def run_steps(config: Path, work: Path, log: Path) -> dict[str, tuple[float, float]]:
    """Run all steps, and show Snakemake's lines.

    Returns:
        {step: (seconds, peak memory in GB of all that ran at the time)}.

    Raises:
        SystemExit: a step failed.
    """
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "--nolock"]
    command += ["--configfile", config.name]
    if torch.cuda.is_available():
        command += ["--resources", f"gpu={torch.cuda.device_count()}"]
    environment = os.environ | {"FERVIT_HOME": str(work)}
    steps: dict[str, tuple[float, float]] = {}
    # A group of its own, so that all of it is ended at once, after Ctrl-C as after a SIGTERM.
    options: dict[str, Any] = {"cwd": work, "env": environment, "start_new_session": True}
    with (
        log.open("w") as messages,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=messages, text=True, **options
        ) as process,
    ):
        watch = MemoryWatch(process.pid)
        watch.start()
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if match := LINE.match(line):
                    now = time.monotonic()
                    hours, minutes, rest = map(int, match.groups()[1:])
                    seconds = 3600 * hours + 60 * minutes + rest
                    steps[match[1]] = seconds, watch.peak(now - seconds, now)
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)
            raise
    if process.returncode:
        failed = list(work.glob(".snakemake/*.failed"))
        text = failed[0].read_text() if failed else log.read_text()[-2000:]
        raise SystemExit(f"{text}\nThe rehearsal has failed. Snakemake's messages: {log}")
    return steps


def print_costs(steps: Mapping[str, tuple[float, float]]) -> None:
    """One line per step; memory is of the host, and of all steps that ran at the same time."""
    print(f"\n{'step':<55} {'time':>7} {'memory':>9}")
    for step, (seconds, memory) in steps.items():
        print(f"{step:<55} {seconds:>5.0f} s {memory:>6.1f} GB")


def print_estimate(
    plan: Mapping[str, Mapping[str, dict[str, Any]]], results: Path, device: torch.device
) -> None:
    """What encoding all faces would take, by the rate of the rehearsal."""
    views = read_parameters(PROJECT_ROOT / NOTEBOOKS["encode"])["num_views"].default
    for variant, block in plan["encode"].items():
        per_face = 1 / read_json(results / variant / "result.json")["faces_per_second"]
        source, sizes = "FER2013", FER2013
        if block.get("faces", "toy") != "toy" and resolve(block["faces"]).exists():
            fields = {name: block[name] for name in Protocol.__annotations__ if name in block}
            splits = load_splits(resolve(block["faces"]), Protocol(**fields))
            source, sizes = block["faces"], {name: len(split) for name, split in splits.items()}
        codes = sizes["train"] * block.get("num_views", views) + sizes["val"] + sizes["test"]
        print(
            f"{variant}: {per_face:.3f} s per face on {describe_device(device)}; {source} is "
            f"{codes:,} codes with {block.get('num_views', views)} views of each training face: "
            f"{codes * per_face / 3600:.1f} h here"
        )


def rehearse(config: Path, faces: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Run the rehearsal of a config; its pages are in `folder`.

    Raises:
        ValueError: the config is not valid, or there are too few faces.
        SystemExit: a step failed.
    """
    check_range("faces", faces, LEAST_FACES)
    content = read_yaml(config)
    plan = read_config(content)
    short = shorten(content, faces)
    reports = folder / short["experiment"]
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / ".lock"), workspace(folder) as work:
        shutil.rmtree(reports, ignore_errors=True)  # of the rehearsal before
        print(f"{short['experiment']}: {QUESTION}")
        for block in short["encode"]:
            print(f"faces: {block['faces']}, about {faces}")
        write_weights(read_config(short), work / "pretrained_models")
        path = work / "rehearsal.yaml"
        path.write_text(yaml.safe_dump(short, sort_keys=False))
        log = folder / f"{short['experiment']}.log"
        steps = run_steps(path, work, log)
        print_costs(steps)
        print_estimate(plan, reports / "encode", get_device())
    print(f"Every step ran. Random weights: no figure says anything. {reports}/index.html")
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--faces", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("reports/rehearsal"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the weights are removed, too
    try:
        rehearse(arguments.config, arguments.faces, resolve(arguments.folder))
    except (OSError, ValueError) as error:  # a bad config, a full disk
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
