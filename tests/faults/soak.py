"""`make soak`: kill encoding, training, distilling and a sweep at random moments, and compare.

Each step is run once undisturbed. Then it is run again while its processes are killed (SIGKILL) at
random moments, drawn from a seed; each is restarted by the same call until it ends. After every
kill no file may be half written. At the end codes, weights, curves and results must equal those of
the undisturbed run bit for bit, with no other file beside them.
"""

import argparse
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
import yaml
from optuna.trial import TrialState
from PIL import Image
from safetensors import safe_open
from sklearn import decomposition  # noqa: F401 (imported before the fork, as the two lines below)

from fervit_lib import distillation, encoders, evaluation, figures, training  # noqa: F401
from fervit_lib.figures import distill  # noqa: F401
from fervit_lib.runs import Run
from fervit_lib.sweep import study
from fervit_lib.sweep.config import read_sweep
from fervit_lib.sweep.work import work
from fervit_lib.system.atomic import LOCK_SUFFIX
from tests.faults.notebooks import execute, fork

SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "batch_size": 16}
# Fields of a run's JSON files that two undisturbed runs do not share either.
NOT_COMPARED = {
    "seconds",
    "train_seconds",
    "faces_per_second",
    "peak_memory_gb",
    "started",
    "ended",
    "median_ms",
    "sizes",
    "device",
    "git_revision",
    "git_dirty",
}


@dataclass(frozen=True)
class Step:
    """What is killed: `processes` that run `work(folder)`; each is restarted until it ends."""

    name: str
    work: Callable[[Path], Any]
    processes: int = 1
    check: Callable[[Path], None] = lambda folder: None


def encode(folder: Path) -> None:
    parameters = {
        "toy_faces": 140,
        "num_views": 2,
        "img_size": 32,
        "data_dir": str(folder / "data"),
        "reports": str(folder / "reports"),
        "device": "cpu",
    }
    execute("01_encode", parameters)


def train(folder: Path) -> None:
    """The strategy with two phases, and everything else that has a state to resume."""
    parameters = {
        "strategy": "gradual",
        "schedule": "plateau",
        "mixup": 0.2,
        "ema": 0.9,
        "latent_noise": 0.1,
        "epochs": 6,
        "latents": str(folder.parent / "codes"),
        "pretrained": "mae",
        "mae_epochs": 1,
        "patience": 50,
        "reports": str(folder / "reports"),
        "device": "cpu",
    }
    execute("02_train", SMALL | parameters)


def distil(folder: Path) -> None:
    parameters = {
        "teacher_encoder": "mobilenet_v2",
        "student_encoder": "mobilenet_v2",
        "student_decoder": "slim",
        "teacher": "toy",
        "detector": "toy",
        "teacher_epochs": 2,
        "detector_epochs": 1,
        "toy_people": 20,
        "toy_size": 32,
        "image_size": 32,
        "batch_size": 4,
        "epochs": 2,
        "seeds": 1,
        "data_dir": str(folder / "data"),
        "reports": str(folder / "reports"),
        "device": "cpu",
    }
    execute("03_distill", parameters)


GRID = {"lr": {"values": [1e-3, 1e-2]}, "depth": {"values": [1, 2]}}


def search(folder: Path) -> None:
    """One worker of a sweep. It trains trials in its own process, so both are killed together."""
    fixed = SMALL | {"latents": str(folder.parent / "codes"), "epochs": 3}
    parameters = {name: {"value": value} for name, value in fixed.items()} | GRID
    content = {
        "name": "s",
        "method": "grid",
        "metric": {"name": "macro_f1", "goal": "maximize"},
        "parameters": parameters,
    }
    file = folder.parent / "sweep.yaml"
    file.write_text(yaml.safe_dump(content))

    def train_trial(_: Any, run: Run, parameters: dict[str, Any]) -> float:
        of_run = {
            "experiment": run.experiment,
            "variant": run.variant,
            "reports": str(run.reports),
            "device": "cpu",
        }
        execute("02_train", parameters | of_run)
        return run.result["val_macro_f1"]

    # A trial that kills its workers is given up after some starts, but here the test kills them.
    study.MAX_STARTS = sys.maxsize
    work(read_sweep(file), folder / "reports", train=train_trial)


def check_trials(folder: Path) -> None:
    """Every point of the grid was trained once, by whichever worker."""
    trials = study.load_study(folder / "reports" / "s" / "sweep")[0].trials
    assert len(trials) == math.prod(len(axis["values"]) for axis in GRID.values())
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == len(trials)
    for trial in trials:
        reason = f"trial {trial.number}: {trial.state.name}, {trial.user_attrs}"
        assert trial.state == TrialState.COMPLETE, reason
        run = Run(folder / "reports", "s", "train", f"trial-{trial.number:03d}")
        assert trial.value == run.result["val_macro_f1"]


STEPS = [
    Step("encode", encode, processes=2),
    Step("train", train),
    Step("distill", distil),
    Step("sweep", search, processes=2, check=check_trials),
]


def run_undisturbed(step: Step, folder: Path, log: Path) -> float:
    """Run a step to its end. Returns the seconds it took."""
    started = time.perf_counter()
    running = [fork(log, step.work, folder) for _ in range(step.processes)]
    for process in running:
        process.join()
        if process.exitcode:
            raise SystemExit(
                f"{step.name}: an undisturbed process ended with {process.exitcode}, see {log}"
            )
    return time.perf_counter() - started


def run_disturbed(
    step: Step, folder: Path, log: Path, delays: Iterator[float], draw: random.Random
) -> Counter:
    """Run a step to its end, killing one of its processes after each of `delays` (seconds).

    Every other kill waits for a write.

    Returns:
        The number of kills, and how many of them hit a write.
    """
    counts: Counter = Counter()
    running: list[BaseProcess] = [fork(log, step.work, folder) for _ in range(step.processes)]
    try:
        while running:
            ended = wait([process.sentinel for process in running], next(delays, None))
            if not ended:
                victim = draw.choice(running)
                if counts["kills"] % 2:
                    await_a_write(victim, folder)
                victim.kill()
                victim.join()
                if victim.exitcode == -signal.SIGKILL:  # otherwise it had just ended
                    counts += Counter(kills=1, writes=is_writing(victim, folder))
                    check_no_partial_files(folder)
                    running[running.index(victim)] = fork(log, step.work, folder)
            for process in [process for process in running if process.exitcode is not None]:
                if process.exitcode:
                    raise SystemExit(
                        f"{step.name}: a restarted process ended with {process.exitcode}, see {log}"
                    )
                running.remove(process)
    finally:
        for process in running:
            process.kill()
    return counts


def await_a_write(process: BaseProcess, folder: Path, seconds: float = 2.0) -> None:
    """Wait until a process writes a file: a random kill rarely hits a write, which is short."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.is_alive() and not is_writing(process, folder):
        time.sleep(0.0005)


def is_writing(process: BaseProcess, folder: Path) -> bool:
    """Whether a process is writing a file, or was when it was killed."""
    for name, path in files_of(folder).items():
        is_write = name.endswith(LOCK_SUFFIX) and path.with_suffix("").is_dir()
        if is_write:
            with suppress(FileNotFoundError):
                if path.read_text().startswith(f"process {process.pid} "):
                    return True
    return False


def files_of(folder: Path) -> dict[str, Path]:
    """All files by their name within `folder`.

    The names of TensorBoard's files contain the time and the process; here all are `events`.
    """
    files = {}
    # Unlike Path.rglob, os.walk tolerates files that a running process removes meanwhile.
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            stable = path.with_name("events") if name.startswith("events.out") else path
            files[str(stable.relative_to(folder))] = path
    return files


def check_no_partial_files(folder: Path) -> None:
    """Every file can be read to its end, except temporary ones."""
    for name, path in files_of(folder).items():
        if ".tmp" not in name and ".drawing/" not in name:
            with suppress(FileNotFoundError):  # another process removed it meanwhile
                read_to_the_end(path)


def read_to_the_end(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix in (".safetensors", ".state"):
        with safe_open(path, framework="pt") as file:
            assert all(file.get_tensor(key) is not None for key in file.keys())  # noqa: SIM118
    elif path.suffix == ".csv":
        assert len(pd.read_csv(path))
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()


def check_same(step: Step, undisturbed: Path, killed: Path) -> None:
    """Both runs have the same files with the same content."""
    step.check(killed)
    check_no_partial_files(killed)
    expected, actual = files_of(undisturbed), files_of(killed)
    assert set(expected) == set(actual), f"{step.name}: {sorted(set(expected) ^ set(actual))}"
    for name, path in expected.items():
        one, two = comparable_content(path), comparable_content(actual[name])
        if isinstance(one, dict):
            different = [key for key in one if one[key] != two.get(key)]
            assert not different, f"{step.name}: {name} differs in {', '.join(different)}"
        assert one == two, f"{step.name}: {name} differs"


def comparable_content(path: Path) -> Any:
    """The content of a file without times; None for logs, studies and locks."""
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.name == "metrics.csv":
        return pd.read_csv(path).drop(columns="seconds", errors="ignore").to_csv()
    if path.suffix in (".safetensors", ".state"):
        with safe_open(path, framework="pt") as file:
            return {key: tensor_bytes(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    if path.suffix in (".png", ".onnx", ".pth"):
        return path.read_bytes()
    return None


def tensor_bytes(tensor: torch.Tensor) -> tuple:
    values = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tuple(tensor.shape), values


def without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            key: without_times(value) for key, value in content.items() if key not in NOT_COMPARED
        }
    if isinstance(content, list):
        return [without_times(value) for value in content]
    return content


def soak(root: Path, kills: int, seed: int, steps: list[Step]) -> None:
    """Kill `kills` times, spread over the steps, and print how many kills hit what.

    Raises:
        AssertionError: a file is partial, left over, or differs from the undisturbed run.
    """
    draw = random.Random(seed)
    total: Counter = Counter()
    started = time.perf_counter()
    run_undisturbed(STEPS[0], root / "now", root / "codes.log")
    (root / "now" / "data" / "latents" / "toy" / "autoencoder").rename(root / "codes")
    shutil.rmtree(root / "now")
    for number, step in enumerate(steps):
        kills_of_step = (kills + number) // len(steps)
        folder = root / "now"
        undisturbed = root / "undisturbed"
        log = root / f"{step.name}.log"
        seconds = run_undisturbed(step, folder, log)
        folder.rename(undisturbed)  # so that the killed run has the same paths
        counts: Counter = Counter()
        rounds = 0
        while counts["kills"] < kills_of_step:
            kills_left = kills_of_step - counts["kills"]
            delays = iter([draw.uniform(0, 0.7 * seconds) for _ in range(kills_left)])
            counts += run_disturbed(step, folder, log, delays, draw)
            check_same(step, undisturbed, folder)
            shutil.rmtree(folder)
            rounds += 1
        shutil.rmtree(undisturbed)
        print(
            f"{step.name:8} {counts['kills']:3} kills of {step.processes} processes, "
            f"{counts['writes']} within a write; completed {rounds} times, each time with the "
            f"undisturbed result ({seconds:.1f} s)",
            flush=True,
        )
        total += counts
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{total['kills']} kills, {total['writes']} within a write: no file lost, partial or left "
        f"over. {time.perf_counter() - started:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of "
        f"CPU time; seed {seed}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[step.name for step in STEPS], action="append")
    options = parser.parse_args()
    with TemporaryDirectory() as root:
        chosen = [step for step in STEPS if not options.only or step.name in options.only]
        try:
            soak(Path(root), options.kills, options.seed, chosen)
        except BaseException:
            for log in sorted(Path(root).glob("*.log")):
                print(log.read_text()[-3000:], file=sys.stderr)
            raise
