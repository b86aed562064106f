"""`make soak`: kill every step at random moments, flip bytes of its files, and compare.

Each step is run once undisturbed. Then it is run again while its processes are killed (SIGKILL) at
random moments, drawn from a seed; each is restarted by the same call until it ends. After every
kill no file may be half written. At the end codes, weights, curves, predictions and results must
equal those of the undisturbed run bit for bit, except `NOT_COMPARED`, with no other file beside
them. Then single bytes of files are changed, see `flips`.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from PIL import Image
from safetensors import safe_open
from sklearn import decomposition  # noqa: F401 (imported before the fork, as the lines below)

from fervit_lib import distillation, encoders, evaluation, explain, figures, training  # noqa: F401
from fervit_lib.figures import distill  # noqa: F401
from fervit_lib.notebook import explorer  # noqa: F401
from fervit_lib.system.atomic import LOCK_SUFFIX
from tests.faults.flips import flip
from tests.faults.notebooks import fork
from tests.faults.steps import STEPS, Step, encode, train_two

# Fields of a run's files that two undisturbed runs do not share either. The checksum is one of all.
# Not compared at all: pages and figures (HTML), LaTeX, TensorBoard's files, logs, locks, studies,
# and the manifest of face hashes, which is written when the faces are two seconds old.
NOT_COMPARED = {
    "checksum",
    "seconds",
    "train_seconds",
    "seconds_per_epoch",
    "faces_per_second",
    "peak_memory_gb",
    "started",
    "ended",
    "median_ms",
    "latency_p50_ms",
    "latency_p95_ms",
    "whole_p50_ms",
    "whole_p95_ms",
    "throughput",
    "whole_throughput",
    "best_batch",
    "host_memory_gb",
    "gpu_memory_gb",
    "joules_per_face",
    "others_cpu",
    "machine",
    "sizes",
    "device",
    "git_revision",
    "git_dirty",
}


def start(step: Step, folder: Path, log: Path) -> list[BaseProcess]:
    """Start all processes of a step."""
    if not step.ranks:
        return [fork(log, step.work, folder) for _ in range(step.processes)]
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    launch = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": step.processes}
    return [fork(log, work_as_rank, step, folder, launch, rank) for rank in range(step.processes)]


def work_as_rank(step: Step, folder: Path, launch: Mapping[str, Any], rank: int) -> None:
    variables = {**launch, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in variables.items()})
    step.work(folder)


def run_undisturbed(step: Step, folder: Path, log: Path) -> float:
    """Run a step to its end. Returns the seconds it took."""
    step.prepare(folder)
    started = time.perf_counter()
    for process in start(step, folder, log):
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
    step.prepare(folder)
    running = start(step, folder, log)
    try:
        while running:
            ended = wait([process.sentinel for process in running], next(delays, None))
            if not ended:
                victim = draw.choice(running)
                if counts["kills"] % 2:
                    await_a_write(victim, folder)
                # The launcher ends the other ranks.
                for process in running if step.ranks else [victim]:
                    process.kill()
                    process.join()
                if victim.exitcode == -signal.SIGKILL:  # otherwise it had just ended
                    counts += Counter(kills=1, writes=is_writing(victim, folder))
                    check_no_partial_files(folder)
                    restarted = start(step, folder, log) if step.ranks else []
                    restarted = restarted or [fork(log, step.work, folder)]
                    running = restarted + [p for p in running if p is not victim and not step.ranks]
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
    elif path.suffix == ".parquet":
        assert len(pd.read_parquet(path))
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith(">")
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()


def check_same(step: Step, undisturbed: Path, killed: Path) -> None:
    """Both runs have the same files with the same content."""
    step.check(killed)
    check_no_partial_files(killed)
    expected, actual = files_of(undisturbed), files_of(killed)
    differ = {name for name in set(expected) ^ set(actual) if not name.endswith(".face-hashes")}
    assert not differ, f"{step.name}: {sorted(differ)}"
    for name in expected.keys() & actual.keys():
        one, two = comparable_content(expected[name]), comparable_content(actual[name])
        if isinstance(one, dict):
            different = [key for key in one if one[key] != two.get(key)]
            assert not different, f"{step.name}: {name} differs in {', '.join(different)}"
        assert one == two, f"{step.name}: {name} differs"


def comparable_content(path: Path) -> Any:
    """The content of a file without times; None for logs, studies and locks."""
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".csv":
        return pd.read_csv(path).drop(columns=list(NOT_COMPARED), errors="ignore").to_csv()
    if path.suffix in (".safetensors", ".state"):
        with safe_open(path, framework="pt") as file:
            return {key: tensor_bytes(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    if path.suffix in (".png", ".onnx", ".pth", ".parquet"):
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


def soak(root: Path, kills: int, flips: int, seed: int, steps: list[Step]) -> None:
    """Kill `kills` times, spread over the steps, flip `flips` bytes, and print what happened.

    Raises:
        AssertionError: a file is partial, left over, or differs from the undisturbed run; or a
            flipped byte changed a figure.
    """
    draw = random.Random(seed)
    started = time.perf_counter()
    for name, work in (("codes", encode), ("two", train_two)):  # what the steps read
        run_undisturbed(Step(name, work), root / name, root / f"{name}.log")
    total: Counter = Counter()
    for number, step in enumerate(steps if kills else ()):
        total += kill_step(root, step, (kills + number) // len(steps), draw)
    if kills:
        print_total(total, seed, time.perf_counter() - started)
    if flips:
        flip(root, flips, draw)


def print_total(total: Counter, seed: int, seconds: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{total['kills']} kills, {total['writes']} within a write: no file lost, partial or left "
        f"over. {seconds:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of "
        f"CPU time; seed {seed}",
        flush=True,
    )


def kill_step(root: Path, step: Step, kills: int, draw: random.Random) -> Counter:
    """Kill a step `kills` times, in one or more runs of it, and print how many kills hit what."""
    folder, undisturbed, log = root / "now", root / "undisturbed", root / f"{step.name}.log"
    seconds = run_undisturbed(step, folder, log)
    folder.rename(undisturbed)  # so that the killed run has the same paths
    counts: Counter = Counter()
    rounds = 0
    while counts["kills"] < kills:
        kills_left = kills - counts["kills"]
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
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[step.name for step in STEPS], action="append")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        chosen = [step for step in STEPS if not options.only or step.name in options.only]
        try:
            soak(Path(folder), options.kills, options.flips, options.seed, chosen)
        except BaseException:
            for log in sorted(Path(folder).glob("*.log")):
                print(log.read_text()[-3000:], file=sys.stderr)
            raise
