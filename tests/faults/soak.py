"""`make soak`: kill encoding, training, distilling and a sweep at random, again and again, and compare what comes out.

Each step is run once undisturbed. Then it is begun anew, its processes are killed (SIGKILL) at random moments, drawn
from a seed, and each is started again by the same call until it ends. At every kill no file may be half written; at the
end codes, weights, curves and results have to be those of the undisturbed run, bit for bit, with no file beside them.
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
from sklearn import decomposition  # noqa: F401  (notebooks do; here, so that no process that is forked has to)

from fervit_lib import distillation, encoders, evaluation, figures, sweep, training  # noqa: F401
from fervit_lib.figures import distill  # noqa: F401
from fervit_lib.runs import Run
from fervit_lib.sweep import study
from fervit_lib.sweep.work import work
from fervit_lib.system.atomic import LOCK_SUFFIX
from tests.faults.notebooks import execute, fork

SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "batch_size": 16}
# Of a run's JSON: what a second undisturbed run does not repeat either, or a commit meanwhile changes.
TIMES = {
    "seconds",
    "train_seconds",
    "faces_per_second",
    "peak_memory_gb",
    "started",
    "ended",
    "median_ms",
    "sizes",
}
TIMES |= {"device", "git_revision", "git_dirty"}


@dataclass(frozen=True)
class Step:
    """What is killed: `processes` that run `work(folder)`, of which each is started again until it ends."""

    name: str
    work: Callable[[Path], Any]
    processes: int = 1
    check: Callable[[Path], None] = lambda folder: None


def encode(folder: Path) -> None:
    given = {
        "toy_faces": 140,
        "epochs": 2,
        "num_views": 2,
        "img_size": 32,
        "data_dir": str(folder / "data"),
    }
    execute("01_encode", given | {"reports": str(folder / "reports"), "device": "cpu"})


def train(folder: Path) -> None:
    """The strategy that searches for its rate, with all that keeps a state."""
    given = {
        "strategy": "gradual",
        "schedule": "plateau",
        "mixup": 0.2,
        "ema": 0.9,
        "latent_noise": 0.1,
        "epochs": 6,
    }
    given |= {
        "latents": str(folder.parent / "codes"),
        "pretrained": "mae",
        "mae_epochs": 1,
        "patience": 50,
    }
    execute("02_train", SMALL | given | {"reports": str(folder / "reports"), "device": "cpu"})


def distil(folder: Path) -> None:
    models = {
        "teacher_encoder": "mobilenet_v2",
        "student_encoder": "mobilenet_v2",
        "student_decoder": "slim",
    }
    toys = {
        "teacher": "toy",
        "detector": "toy",
        "teacher_epochs": 2,
        "detector_epochs": 1,
        "toy_people": 20,
    }
    sizes = {"toy_size": 32, "image_size": 32, "batch_size": 4, "epochs": 2, "seeds": 1}
    places = {"data_dir": str(folder / "data"), "reports": str(folder / "reports"), "device": "cpu"}
    execute("03_distill", models | toys | sizes | places)


GRID = {
    "lr": {"values": [1e-3, 1e-2]},
    "depth": {"values": [1, 2]},
    "drop_rate": {"values": [0.0, 0.1]},
}


def search(folder: Path) -> None:
    """A worker of a sweep, which trains its trials itself: it dies with them."""
    file = folder.parent / "sweep.yaml"
    fixed = SMALL | {"latents": str(folder.parent / "codes"), "epochs": 3}
    parameters = GRID | {
        name: {"value": value} for name, value in fixed.items() if name not in GRID
    }
    metric = {"name": "macro_f1", "goal": "maximize"}
    file.write_text(
        yaml.safe_dump({"name": "s", "method": "grid", "metric": metric, "parameters": parameters})
    )

    def train_trial(_: Any, run: Run, parameters: dict[str, Any]) -> float:
        own = {
            "experiment": run.experiment,
            "variant": run.variant,
            "reports": str(run.reports),
            "device": "cpu",
        }
        execute("02_train", parameters | own)
        return run.result["val_macro_f1"]

    study.MAX_STARTS = (
        sys.maxsize
    )  # of a trial that ends its workers: here it never is the trial that does
    work(sweep.read_sweep(file), folder / "reports", train=train_trial)


def all_trials_ended_once(folder: Path) -> None:
    trials = sweep.load_study(folder / "reports" / "s" / "sweep")[0].trials
    assert len(trials) == math.prod(len(given["values"]) for given in GRID.values())
    for trial in trials:
        assert trial.state == TrialState.COMPLETE, (
            f"trial {trial.number}: {trial.state.name}, {trial.user_attrs}"
        )
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == len(trials)
    for trial in trials:  # by its parameters: which of two workers takes which is not settled
        assert (
            trial.value
            == Run(folder / "reports", "s", "train", f"trial-{trial.number:03d}").result[
                "val_macro_f1"
            ]
        )


STEPS = [
    Step("encode", encode, processes=2),
    Step("train", train),
    Step("distill", distil),
    Step("sweep", search, processes=2, check=all_trials_ended_once),
]


def finish(step: Step, folder: Path, log: Path) -> float:
    """Run a step undisturbed; how long that took, seconds."""
    started = time.perf_counter()
    running = [fork(log, step.work, folder) for _ in range(step.processes)]
    for process in running:
        process.join()
        if process.exitcode:
            raise SystemExit(
                f"{step.name}: an undisturbed process ended with {process.exitcode}, see {log}"
            )
    return time.perf_counter() - started


def disturb(
    step: Step, folder: Path, log: Path, delays: Iterator[float], draw: random.Random
) -> Counter:
    """Run a step, and kill one of its processes after each of `delays` (seconds) while there are any, every other time
    as it writes.

    Returns:
        How many kills there were, and how many of them within a write.
    """
    seen: Counter = Counter()
    running: list[BaseProcess] = [fork(log, step.work, folder) for _ in range(step.processes)]
    try:
        while running:
            ended = wait([process.sentinel for process in running], next(delays, None))
            if not ended:
                victim = draw.choice(running)
                if seen["kills"] % 2:
                    await_a_write(victim, folder)
                victim.kill()
                victim.join()
                if victim.exitcode == -signal.SIGKILL:  # else it had just ended
                    seen += Counter(kills=1, writes=is_writing(victim, folder))
                    check_whole(folder)
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
    return seen


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


def check_whole(folder: Path) -> None:
    """Every file can be read to its end, but what lies aside to be written."""
    for name, path in files_of(folder).items():
        if ".tmp" not in name and ".drawing/" not in name:
            with suppress(FileNotFoundError):  # another process is at work
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


def check_same(step: Step, whole: Path, killed: Path) -> None:
    """The files of both runs are the same, and say the same."""
    step.check(killed)
    one, two = files_of(whole), files_of(killed)
    assert set(one) == set(two), f"{step.name}: {sorted(set(one) ^ set(two))}"
    check_whole(killed)
    for name in one:
        ours, theirs = what_it_says(one[name]), what_it_says(two[name])
        if isinstance(ours, dict):
            differ = [key for key in ours if ours[key] != theirs.get(key)]
            assert not differ, f"{step.name}: {name} differs in {', '.join(differ)}"
        assert ours == theirs, f"{step.name}: {name} differs"


def what_it_says(path: Path) -> Any:
    """A file's content less its times; None for what is not compared (logs, studies, locks)."""
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.name == "metrics.csv":
        return pd.read_csv(path).drop(columns="seconds", errors="ignore").to_csv()
    if path.suffix in (".safetensors", ".state"):
        with safe_open(path, framework="pt") as file:
            return {key: digest(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    if path.suffix in (".png", ".onnx", ".pth"):
        return path.read_bytes()
    return None


def digest(tensor: torch.Tensor) -> tuple:
    return (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes(),
    )


def without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key not in TIMES}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def soak(root: Path, kills: int, seed: int, steps: list[Step]) -> None:
    """Kill `kills` times in all, and print how many fell where.

    Raises:
        AssertionError: a file is torn, left over or another than in the undisturbed run.
    """
    draw, total = random.Random(seed), Counter()
    began = time.perf_counter()
    finish(STEPS[0], root / "now", root / "codes.log")
    (root / "now" / "data" / "latents" / "toy" / "autoencoder").rename(root / "codes")
    shutil.rmtree(root / "now")
    for number, step in enumerate(steps):
        left = (kills + number) // len(steps)
        now, whole, log = root / "now", root / "whole", root / f"{step.name}.log"
        seconds = finish(step, now, log)
        now.rename(whole)  # so that the killed run has the same paths
        rounds, seen = 0, Counter()
        while seen["kills"] < left:
            delays = iter([draw.uniform(0, 0.7 * seconds) for _ in range(left - seen["kills"])])
            seen += disturb(step, now, log, delays, draw)
            check_same(step, whole, now)
            shutil.rmtree(now)
            rounds += 1
        shutil.rmtree(whole)
        print(
            f"{step.name:8} {seen['kills']:3} kills of {step.processes} processes, {seen['writes']} within a write; "
            f"{rounds} times to the end, each time as undisturbed ({seconds:.1f} s)",
            flush=True,
        )
        total += seen
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{total['kills']} kills, {total['writes']} within a write: nothing lost, torn or left over. "
        f"{time.perf_counter() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of them on a core; seed {seed}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[step.name for step in STEPS], action="append")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        chosen = [step for step in STEPS if not options.only or step.name in options.only]
        try:
            soak(Path(folder), options.kills, options.seed, chosen)
        except BaseException:
            for log in sorted(Path(folder).glob("*.log")):
                print(log.read_text()[-3000:], file=sys.stderr)
            raise
